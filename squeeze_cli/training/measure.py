"""Evaluation of trained weights on a split, and of the first levels of rvq."""

import torch

from squeeze_cli.codec.prior_files import read_prior
from squeeze_cli.config.record import (
    FinishedRecord,
    LevelsRecord,
    Measured,
    RunRecord,
    SplitMetrics,
)
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.console import Reporter
from squeeze_cli.features.datamodule import FeatureBatches
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.callbacks import ReportedProgress
from squeeze_cli.training.devices import create_trainer, quiet_libraries
from squeeze_cli.training.experiment import Experiment, load_trained
from squeeze_cli.training.metrics import FeatureComparison, Values
from squeeze_cli.training.modules import FeatureModule
from squeeze_cli.training.outputs import MEASURED_SPLITS, decoder_bytes, encode_split, split_codes


def evaluate(
    config: ExperimentConfig, module: FeatureModule, data: FeatureBatches, split: str,
    device: torch.device, reporter: Reporter, *, alone: bool = False, label: str = "",
    comparison: FeatureComparison | None = None,
) -> Values:  # fmt: skip
    """Return losses and metrics of the module on a whole split of `data`; trackers get none of them.

    With `alone` a single process is used, whatever `config` says. Progress is shown if it has a
    `label`. A `comparison`, which needs codes and a single process, is added to the metrics.
    """
    data.test_split = split
    if comparison is not None:
        module.test_metrics.add_metrics({"comparison": comparison})
    with quiet_libraries(verbose=reporter.verbose):
        trainer = create_trainer(
            config.training, device, callbacks=[ReportedProgress(reporter, label)], alone=alone
        )
        trainer.test(module, datamodule=data, verbose=False)
    if comparison is not None:
        module.test_metrics.pop("comparison")
    return module.results("test")


def measure_levels(
    run: RunFolder, experiment: Experiment, record: RunRecord, reporter: Reporter
) -> list[LevelsRecord]:
    """Measure codes of the first levels only, for each number below all of them, on `val` and `test`.

    `record` includes the results of `save_outputs`; prior and weights are read from the run's folder.
    """
    config, data, device = experiment.config, experiment.data, experiment.device
    finished = FinishedRecord.model_validate(record.model_dump(exclude_unset=True))
    assert finished.measured is not None
    assert finished.digest is not None
    prior = read_prior(run.prior_file) if finished.measured.prior_digest else None
    found = []
    for levels in range(1, config.quantizer.num_quantizers):
        module = load_trained(run, finished, config, experiment.backbone, levels).to(device)
        metrics, sizes = {}, {}
        for split in MEASURED_SPLITS:
            values = evaluate(config, module, data, split, device, reporter, alone=True)
            metrics[split] = SplitMetrics.model_validate(values)
            codes = split_codes(experiment, module.network, split)
            sizes[split] = encode_split(
                experiment, module.network, split, codes, finished.digest, prior
            )[1]
        decoder = decoder_bytes(module.network, prior)
        measured = Measured(**sizes, decoder=decoder, prior_digest=finished.measured.prior_digest)
        found.append(LevelsRecord(levels=levels, **metrics, measured=measured))
    return found
