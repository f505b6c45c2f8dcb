"""`squeeze evaluate`: evaluation of a run on a split of its data."""

from pathlib import Path
from typing import Literal

from squeeze_cli.config.record import EvaluationResult, SplitMetrics
from squeeze_cli.console import Reporter
from squeeze_cli.features.datamodule import FeatureBatches
from squeeze_cli.inference.probe import probe_features, read_labels
from squeeze_cli.inference.trained_run import TrainedRun
from squeeze_cli.training.metrics import NEIGHBOURS, FeatureComparison, Values
from squeeze_cli.training.outputs import evaluate


def evaluate_run(
    run: TrainedRun, split: Literal["val", "test"], reporter: Reporter, *,
    neighbours: bool = False, probe: Path | None = None,
) -> EvaluationResult:  # fmt: skip
    """Measure a run on a split of its data.

    `neighbours` adds the share of nearest neighbours that are kept by decoded features, and `probe`, a
    CSV file of labels, the accuracy of linear probes. Both need a run with codes.

    Raises SqueezeError if the backbone's weights, the data or the codes are missing, and as `read_labels`
    does.
    """
    compared: FeatureComparison | None = None
    if neighbours or probe is not None:
        run.require_codes()
        compared = FeatureComparison(run.config.training.seed, neighbours)
    splits, before = run.splits(reporter), run.record.data
    labels = {} if probe is None else read_labels(probe, splits, split, reporter)
    data = run.data({split: getattr(splits, split)}, reporter)
    tested = splits.without({**splits.named(), split: data.splits[split]}, ())
    known = before.val_digest if split == "val" else before.test_digest
    if known not in (None, tested.digest(split)):
        run.report_changed(f"images or masks of the {split} split", reporter)
    metrics = SplitMetrics.model_validate(_measure(run, data, split, reporter, compared))
    for name in ("images", "patches"):
        if neighbours and getattr(metrics, f"neighbours_{name}") is None:
            reporter.warn(
                f"There are too few {name} to measure their {NEIGHBOURS} nearest neighbours: "
                f"{NEIGHBOURS + 2} are needed."
            )
    result = EvaluationResult(
        run=run.folder.name, split=split, data_dir=run.config.data.place,
        classes=[] if run.network.head is None else run.classes.names,
        images=len(data.splits[split]), skipped_images=len(splits.skipped) + len(data.skipped),
        levels=run.levels, metrics=metrics,
    )  # fmt: skip
    if compared is not None and labels:
        train = run.data({"train": [s for s in splits.train if s.name in labels]}, reporter)
        learned = FeatureComparison(run.config.training.seed, neighbours=False)
        _measure(run, train, "train", reporter, learned)
        pairs = [(train.splits["train"], learned.images), (data.splits[split], compared.images)]
        result.probe = probe_features(labels, *pairs)
    return result


def _measure(
    run: TrainedRun, data: FeatureBatches, split: str, reporter: Reporter,
    compared: FeatureComparison | None,
) -> Values:  # fmt: skip
    return evaluate(
        run.config, run.module, data, split, run.device, reporter, alone=True,
        label="Evaluating" if split != "train" else "Training images", comparison=compared,
    )  # fmt: skip
