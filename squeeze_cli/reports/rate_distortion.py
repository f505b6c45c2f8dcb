"""Rate against distortion, from run records alone: what `squeeze compare --plot` draws.

The rate is measured: bits per vector of the whole file that holds the test split's codes. Seeds of
one configuration become one point, their mean; runs are put together only where they saw the same
features and images.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from squeeze_cli.config.record import FinishedRecord, RunRecord, as_finished
from squeeze_cli.errors import SqueezeError
from squeeze_cli.reports.comparison import FoundRun, Setting, baseline_scores, on_front, setting

Traits = dict[str, object]


@dataclass(frozen=True)
class Configuration:
    """Runs that differ by their seed only.

    Attributes:
        quantizer: registry name.
        label: what distinguishes it from the others of the panel, such as `vq 512`.
        records: one record per seed, each with a test mIoU and measured bits.
    """

    quantizer: str
    label: str
    records: tuple[FinishedRecord, ...]

    @property
    def bits(self) -> tuple[float, ...]:
        """Measured bits per vector, one value per seed."""
        return tuple(r.measured.test.bits_per_vector for r in self.records if r.measured)

    @property
    def ious(self) -> tuple[float, ...]:
        """Test mIoU (0 to 1), one value per seed."""
        return tuple(r.metrics.test.iou for r in self.records if r.metrics.test)

    @property
    def point(self) -> tuple[float, float]:
        """Mean bits and mean mIoU over the seeds."""
        return statistics.mean(self.bits), statistics.mean(self.ious)


@dataclass(frozen=True)
class Panel:
    """Configurations on the same features and images, by rising rate.

    Attributes:
        title: the backbone and the images.
        configurations: one per point.
        front: those on the Pareto front of the means, by rising rate.
        baseline: test mIoU of the runs on unquantized features; may be empty.
    """

    title: str
    configurations: tuple[Configuration, ...]
    front: tuple[Configuration, ...]
    baseline: tuple[float, ...]


def rate_distortion(runs: Sequence[FoundRun]) -> list[Panel]:
    """Return a panel for each setting in which a finished run has measured bits and a test mIoU.

    Raises SqueezeError where there is none.
    """
    baselines = baseline_scores([record for _, record in runs if isinstance(record, RunRecord)])
    groups: dict[Setting, list[FinishedRecord]] = {}
    for run, record in runs:
        if isinstance(record, RunRecord) and record.status == "finished":
            where = setting(record)
            if where and record.quantizer and record.measured and record.metrics.test:
                groups.setdefault(where, []).append(as_finished(record, run.record_file))
    if not groups:
        raise SqueezeError(
            "Nothing to plot: none of these runs is finished and has measured bits; train one with "
            "`squeeze train`."
        )
    return [_panel(group, tuple(baselines.get(where, ()))) for where, group in groups.items()]


def _panel(records: Sequence[FinishedRecord], baseline: tuple[float, ...]) -> Panel:
    groups = _by_configuration(records)
    configurations = [
        Configuration(seeds[0].quantizer.type, label, tuple(seeds))
        for seeds, label in zip(groups, _labels(groups), strict=True)
    ]
    configurations.sort(key=lambda configuration: configuration.point)
    points = [configuration.point for configuration in configurations]
    front = tuple(c for c in configurations if on_front(c.point, points))
    model, data = records[0].model, records[0].data
    weights = " (random features)" if model.random_features else ""
    title = (
        f"{model.backbone}{weights}, {data.test_images} test images of {data.dataset}, "
        f"{data.image_size_px} px"
    )
    return Panel(title, tuple(configurations), front, baseline)


def _by_configuration(records: Sequence[FinishedRecord]) -> list[list[FinishedRecord]]:
    """Group the seeds of one configuration.

    The record does not hold every hyperparameter: where a seed comes twice, something else differs,
    and each run stands for itself.
    """
    alike: dict[tuple[object, ...], list[FinishedRecord]] = {}
    for record in records:
        alike.setdefault(tuple(_traits(record).values()), []).append(record)
    groups: list[list[FinishedRecord]] = []
    for group in alike.values():
        seeds = {record.seed for record in group}
        groups += [group] if len(seeds) == len(group) else [[record] for record in group]
    return groups


def _traits(record: FinishedRecord) -> Traits:
    """What makes a configuration, as far as the record knows, by the names that labels show."""
    quantizer, model = record.quantizer, record.model
    return {
        "quantizer": quantizer.type,
        "codes": tuple(quantizer.code_sizes),
        "bottleneck": quantizer.bottleneck_dim,
        "loss": model.loss,
        "adapter": model.add_adapter,
        "unfrozen": model.unfreeze_last_layer,
        "channels": model.quantized_dim,
        "epochs": record.epochs.planned,
        "coding": record.measured.test.coding if record.measured else None,
        "train images": record.data.train_images,
    }


def _labels(groups: Sequence[Sequence[FinishedRecord]]) -> list[str]:
    """Label each group by quantizer and code sizes, then the traits in which equal names differ.

    The run's own name is the label where no trait tells two groups apart.
    """
    traits = [_traits(seeds[0]) for seeds in groups]
    labels = []
    for own, seeds in zip(traits, groups, strict=True):
        name = f"{own['quantizer']} {_sizes(seeds[0].quantizer.code_sizes)}".strip()
        same = [
            t for t in traits if (t["quantizer"], t["codes"]) == (own["quantizer"], own["codes"])
        ]
        differing = [key for key in own if len({t[key] for t in same}) > 1]
        if traits.count(own) > 1:
            name = seeds[0].name
        labels.append(", ".join([name, *(f"{key} {own[key]}" for key in differing)]))
    return labels


def _sizes(codes: Sequence[int]) -> str:
    """`512` for one code per vector, `4 × 256` for four of the same size, else `8 × 5 × 5`."""
    if len(set(codes)) == 1 and len(codes) > 1:
        return f"{len(codes)} × {codes[0]}"
    return " × ".join(map(str, codes))
