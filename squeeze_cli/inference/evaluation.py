"""`squeeze evaluate`: evaluation of a run on a split of its data, and by linear probes for labels."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from squeeze_cli.config.record import EvaluationResult, ProbeResult, SplitMetrics
from squeeze_cli.console import Reporter
from squeeze_cli.data.arrays import FEATURE_SUFFIXES
from squeeze_cli.data.finding import IMAGE_SUFFIXES
from squeeze_cli.data.reading import read_lines, same_name
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.sources import Listing
from squeeze_cli.errors import SqueezeError
from squeeze_cli.inference.trained_run import TrainedRun
from squeeze_cli.training.measure import evaluate
from squeeze_cli.training.metrics import NEIGHBOURS, FeatureComparison

# First cells of a header row, unless an image has that name.
HEADERS = ("name", "names", "image", "images", "file", "filename", "id")
SUFFIXES = {*IMAGE_SUFFIXES, *FEATURE_SUFFIXES}
# Limit on the iterations of L-BFGS, which ends earlier at the minimum.
MOST_STEPS = 1000


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
    tested = splits.with_splits({split: data.splits[split]})
    known = before.val_digest if split == "val" else before.test_digest
    if known not in (None, tested.digest(split)):
        run.report_changed(f"images or masks of the {split} split", reporter)
    values = evaluate(
        run.module, data, split, run.device, reporter, alone=True, label="Evaluating",
        comparison=compared,
    )  # fmt: skip
    metrics = SplitMetrics.model_validate(values)
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
        evaluate(
            run.module, train, "train", run.device, reporter, alone=True, label="Training images",
            comparison=learned,
        )  # fmt: skip
        pairs = [(train.splits["train"], learned.images), (data.splits[split], compared.images)]
        result.probe = probe_features(labels, *pairs)
    return result


class MatchedLabels(NamedTuple):
    """Labels by image names, unknown names, repeated names, and the set of all labels."""

    labels: dict[str, str]
    unknown: list[str]
    repeated: list[str]
    texts: set[str]


def read_labels(path: Path, splits: Listing, split: str, reporter: Reporter) -> dict[str, str]:
    """Return the labels of a run's images by name; warnings count rows and images that do not fit.

    Raises SqueezeError for a file that cannot be read, for an image with two labels, and for too few
    labels of train or of `split`.
    """
    named = {name: [sample.name for sample in part] for name, part in splits.named().items()}
    left_out = [name for name, _ in splits.skipped]
    names = [name for part in (left_out, *named.values()) for name in part]
    labels, unknown, repeated, _ = match_labels(path, names)
    asked = named["train"] + named[split]
    for found, what in (
        (unknown, f"names in {path} are not images of the run"),
        (repeated, f"names in {path} are repeated, with the same label"),
        ([n for n in asked if n not in labels], f"of {len(asked)} images have no label in {path}"),
    ):
        if found:
            reporter.warn(f"{len(found)} {what}, such as {found[0]}.")
    trained = Counter(labels[name] for name in named["train"] if name in labels)
    tested = [labels[name] for name in named[split] if name in labels]
    if len(trained) < 2 or max(trained.values()) < 2 or not tested:
        raise SqueezeError(
            f"{path} has {len(trained)} labels for {trained.total()} images of train, and labels "
            f"{len(tested)} of {split}: a probe needs two labels, one for two images, and one to test."
        )
    if unseen := sum(label not in trained for label in tested):
        reporter.warn(
            f"{unseen} images of {split} have labels that are not in train: they count as wrong."
        )
    return labels


def match_labels(path: Path, names: Iterable[str]) -> MatchedLabels:
    """Match the rows `name,label` of a CSV file with images; a name may have its image's suffix.

    Raises SqueezeError for a file that cannot be read, and for an image with two labels.
    """
    known = {same_name(name): name for name in names}
    matched = MatchedLabels({}, [], [], set())
    labels = matched.labels
    for number, (given, label) in enumerate(_read_rows(path)):
        key, suffix = same_name(given), Path(given).suffix
        stem = key.removesuffix(suffix) if suffix.lower() in SUFFIXES else key
        name = known.get(key, known.get(stem))
        if name is None and not number and given.casefold() in HEADERS:
            continue
        matched.texts.update([label] if label else [])
        if name is None:
            matched.unknown.append(given)
            continue
        if name in labels:
            matched.repeated.append(given)
        if (other := labels.setdefault(name, label)) != label:
            raise SqueezeError(
                f"{path} gives {name} two labels, {other[:60]!r} and {label[:60]!r}: remove one."
            )
    return matched._replace(labels={name: label for name, label in labels.items() if label})


def _read_rows(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and label of each row of a CSV file except blank rows; the label may be empty.

    Raises SqueezeError, which names the line, for any other row.
    """
    reader = csv.reader((f"{line}\n" for line in read_lines(path)), strict=True)
    try:
        for row in reader:
            name, *others = map(str.strip, row or [""])
            if len(others) == 1 and name:
                yield name, others[0]
            elif name or any(others):
                raise csv.Error(f"{len(row)} cells")
    except csv.Error as error:
        raise SqueezeError(
            f"{path}, line {reader.line_num} is not `name,label` ({error}): correct it; a label with a "
            "comma needs quotes around it."
        ) from None


def probe_features(
    labels: Mapping[str, str], train: tuple[Sequence[Sample], Sequence[Tensor]],
    test: tuple[Sequence[Sample], Sequence[Tensor]],
) -> ProbeResult:  # fmt: skip
    """Train and test a probe on original features of images, and another on decoded features.

    Probes are linear (Alain and Bengio, 2016, arXiv:1610.01644).

    Args:
        labels: Labels by name; images without a label are left out.
        train: Training images, and the concatenated original and decoded features of each, `[2C]`.
        test: Test images and their features, in the same form.
    """
    indices = {label: i for i, label in enumerate(sorted(set(labels.values())))}
    vectors, targets = [], []
    for samples, both in (train, test):
        chosen = [i for i, sample in enumerate(samples) if sample.name in labels]
        vectors.append(torch.stack([both[i] for i in chosen]).chunk(2, dim=1))
        targets.append(torch.tensor([indices[labels[samples[i].name]] for i in chosen]))
    original, decoded = (
        _accuracy(trained, targets[0], tested, targets[1])
        for trained, tested in zip(*vectors, strict=True)
    )
    return ProbeResult(
        original=original, decoded=decoded, labels=len(set(targets[0].tolist())),
        train_images=len(targets[0]), images=len(targets[1]),
    )  # fmt: skip


def _accuracy(train_nc: Tensor, labels_n: Tensor, test_mc: Tensor, expected_m: Tensor) -> float:
    """Return the test accuracy of a multinomial logistic regression on standardized features.

    The regression minimizes the sum of the cross-entropies plus half the squared weights.
    """
    std, mean = torch.std_mean(train_nc.double(), dim=0, correction=0)
    std = torch.where(std > 0, std, 1)
    inputs, tested = ((vectors - mean) / std for vectors in (train_nc, test_mc))
    count = int(max(labels_n.max(), expected_m.max())) + 1
    weight = torch.zeros(count, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=MOST_STEPS, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        entropies = F.cross_entropy(F.linear(inputs, weight, bias), labels_n, reduction="sum")
        total: Tensor = (entropies + weight.square().sum() / 2) / len(inputs)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    predicted = F.linear(tested, weight, bias).argmax(dim=1)
    return (predicted == expected_m).double().mean().item()
