"""Rate against distortion, from run records alone: what `squeeze compare --plot` draws.

The rate is measured: bits per vector of the whole file that holds the test split's codes. Seeds of
one configuration become one point, their mean; runs are put together only where they saw the same
features and images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from squeeze_cli.config.record import FinishedRecord, RunRecord
from squeeze_cli.errors import SqueezeError
from squeeze_cli.reports.comparison import (
    FoundRun,
    baseline_iou,
    by_setting,
    on_front,
    rate_and_iou,
)


@dataclass(frozen=True)
class Configuration:
    """Runs that differ by their seed only.

    Attributes:
        label: what distinguishes it from the others of the panel, such as `vq 512`.
        records: one record per seed, each with a test mIoU and measured bits.
    """

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
        return mean(self.bits), mean(self.ious)


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
    groups = by_setting(runs, _complete)
    if not groups:
        raise SqueezeError(
            "Nothing to plot: none of these runs is finished and has measured bits; train one with "
            "`squeeze train`."
        )
    baselines = by_setting(runs, baseline_iou)
    return [_panel(group, tuple(baselines.get(where, ()))) for where, group in groups.items()]


def _complete(record: RunRecord) -> FinishedRecord | None:
    """Return the record of a run that can be plotted, None for others."""
    if not (rate_and_iou(record) and record.model and record.data and record.quantizer):
        return None
    return FinishedRecord.model_validate(record.model_dump(exclude_unset=True))


def _panel(records: Sequence[FinishedRecord], baseline: tuple[float, ...]) -> Panel:
    configurations = sorted(_configurations(records), key=lambda each: each.point)
    points = [configuration.point for configuration in configurations]
    front = tuple(each for each in configurations if on_front(each.point, points))
    model, data = records[0].model, records[0].data
    weights = " (random features)" if model.random_features else ""
    title = (
        f"{model.backbone}{weights}, {data.test_images} test images of {data.dataset}, "
        f"{data.image_size_px} px"
    )
    return Panel(title, tuple(configurations), front, baseline)


def _configurations(records: Sequence[FinishedRecord]) -> list[Configuration]:
    """Group the seeds of one configuration, and label the groups.

    A label has the quantizer, the code sizes, and the traits in which configurations of that name
    differ. The record does not hold every hyperparameter: where a seed comes twice, something else
    differs, and each run stands for itself, labelled with its own name.
    """
    alike: dict[tuple[object, ...], list[FinishedRecord]] = defaultdict(list)
    for record in records:
        alike[tuple(_traits(record).values())].append(record)
    configurations = []
    for group in alike.values():
        own = _traits(group[0])
        same = [t for t in map(_traits, records) if t["name"] == own["name"]]
        differing = [f"{key} {own[key]}" for key in own if len({t[key] for t in same}) > 1]
        averaged = len({record.seed for record in group}) == len(group)
        for seeds in [group] if averaged else [[record] for record in group]:
            name = own["name"] if averaged else seeds[0].name
            label = ", ".join([str(name), *differing])
            configurations.append(Configuration(label, tuple(seeds)))
    return configurations


def _traits(record: FinishedRecord) -> dict[str, object]:
    """Return what makes a configuration, as far as the record knows, by the words of labels."""
    quantizer, model = record.quantizer, record.model
    sizes = quantizer.code_sizes
    if len(set(sizes)) == 1 and len(sizes) > 1:
        shown = f"{len(sizes)} × {sizes[0]}"
    else:
        shown = " × ".join(map(str, sizes))
    return {
        "name": f"{quantizer.type} {shown}".strip(),
        "codes": tuple(sizes),
        "bottleneck": quantizer.bottleneck_dim,
        "loss": model.loss,
        "adapter": model.add_adapter,
        "unfrozen": model.unfreeze_last_layer,
        "channels": model.quantized_dim,
        "epochs": record.epochs.planned,
        "coding": record.measured.test.coding if record.measured else None,
        "train images": record.data.train_images,
    }
