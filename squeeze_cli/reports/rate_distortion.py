"""Rate against distortion, from run records alone: what `squeeze compare --plot` draws.

The rate is measured: bits a vector of the whole file that holds the test split's codes. Seeds of one
configuration become one point, their mean; runs are put together only where they saw the same
features and images.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from squeeze_cli.errors import SqueezeError
from squeeze_cli.reports.comparison import baseline_scores, measured_test, setting
from squeeze_cli.reports.pareto import on_front
from squeeze_cli.runs import RunFolder


@dataclass(frozen=True)
class Configuration:
    """Runs that differ by their seed only.

    Attributes:
        quantizer: registry name.
        label: what tells it from the panel's others, such as `vq 512`.
        records: the runs' records, a seed each.
    """

    quantizer: str
    label: str
    records: tuple[Mapping[str, Any], ...]

    @property
    def bits(self) -> tuple[float, ...]:
        """Measured bits a vector, one a seed."""
        return tuple(record["measured"]["test"]["bits_per_vector"] for record in self.records)

    @property
    def ious(self) -> tuple[float, ...]:
        """Test mIoU (0 to 1), one a seed."""
        return tuple(record["metrics"]["test"]["iou"] for record in self.records)

    @property
    def point(self) -> tuple[float, float]:
        """Mean bits and mean mIoU over the seeds."""
        return statistics.mean(self.bits), statistics.mean(self.ious)


@dataclass(frozen=True)
class Panel:
    """What can be compared: configurations on the same features and images, by rising rate.

    Attributes:
        title: the backbone and the images.
        configurations: one a point.
        front: those on the Pareto front of the means, by rising rate.
        baseline: test mIoU of the runs on unquantized features; may be empty.
    """

    title: str
    configurations: tuple[Configuration, ...]
    front: tuple[Configuration, ...]
    baseline: tuple[float, ...]


def rate_distortion(
    runs: Sequence[tuple[RunFolder, dict[str, Any] | SqueezeError]],
) -> list[Panel]:
    """A panel for each setting in which a finished run has measured bits and a test mIoU.

    Raises SqueezeError where there is none.
    """
    records = [record for _, record in runs if isinstance(record, dict)]
    baselines = baseline_scores(records)
    groups: dict[Any, list[dict[str, Any]]] = {}
    for record in records:
        if _is_measured(record):
            groups.setdefault(setting(record), []).append(record)
    if not groups:
        raise SqueezeError(
            "Nothing to plot: none of these runs is finished and has measured bits; train one with "
            "`squeeze train`."
        )
    return [_panel(group, tuple(baselines.get(where, ()))) for where, group in groups.items()]


def _is_measured(record: dict[str, Any]) -> bool:
    try:
        return (
            record["status"] == "finished"
            and record["metrics"]["test"]["iou"] is not None
            and (measured_test(record) or {}).get("bits_per_vector") is not None
            and setting(record) is not None
        )
    except (KeyError, TypeError, AttributeError):
        return False  # broken or older: the table says so


def _panel(records: Sequence[dict[str, Any]], baseline: tuple[float, ...]) -> Panel:
    parted = _by_configuration(records)
    configurations = [
        Configuration(seeds[0]["quantizer"]["type"], label, tuple(seeds))
        for seeds, label in zip(parted, _labels(parted), strict=True)
    ]
    configurations.sort(key=lambda configuration: configuration.point)
    marks = on_front([configuration.point for configuration in configurations])
    front = tuple(c for c, best in zip(configurations, marks, strict=True) if best)
    model, data = records[0]["model"], records[0]["data"]
    weights = " (random features)" if model.get("random_features") else ""
    title = (
        f"{model['backbone']}{weights}, {data['test_images']} test images of {data['dataset']}, "
        f"{data['image_size_px']} px"
    )
    return Panel(title, tuple(configurations), front, baseline)


def _by_configuration(records: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Seeds of one configuration together.

    The record does not hold every hyperparameter: where a seed comes twice, something else differs,
    and each run stands for itself.
    """
    groups: dict[Any, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(tuple(_traits(record).items()), []).append(record)
    parted: list[list[dict[str, Any]]] = []
    for group in groups.values():
        seeds = {record.get("seed") for record in group}
        parted += [group] if len(seeds) == len(group) else [[record] for record in group]
    return parted


def _traits(record: dict[str, Any]) -> dict[str, Any]:
    """What makes a configuration, as far as the record knows: names as the labels show them."""
    quantizer, model = record["quantizer"], record["model"]
    return {
        "quantizer": quantizer["type"],
        "codes": tuple(quantizer.get("code_sizes") or ()),
        "bottleneck": quantizer.get("bottleneck_dim"),
        "loss": model.get("loss"),
        "adapter": model.get("add_adapter"),
        "unfrozen": model.get("unfreeze_last_layer"),
        "channels": model.get("quantized_dim"),
        "epochs": (record.get("epochs") or {}).get("planned"),
        "coding": (measured_test(record) or {}).get("coding"),
        "train images": record["data"].get("train_images"),
    }


def _labels(parted: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
    """Quantizer and code sizes, then the traits in which those of one such name differ.

    The run's own name where no trait tells two apart.
    """
    traits = [_traits(seeds[0]) for seeds in parted]
    labels = []
    for own, seeds in zip(traits, parted, strict=True):
        name = f"{own['quantizer']} {_sizes(own['codes'])}".strip()
        same = [
            t for t in traits if (t["quantizer"], t["codes"]) == (own["quantizer"], own["codes"])
        ]
        differing = [key for key in own if len({t[key] for t in same}) > 1]
        if traits.count(own) > 1:
            name = str(seeds[0]["name"])
        labels.append(", ".join([name, *(f"{key} {own[key]}" for key in differing)]))
    return labels


def _sizes(codes: tuple[int, ...]) -> str:
    """`512` for one code a vector, `4 × 256` for four of the same size, else `8 × 5 × 5`."""
    if len(set(codes)) == 1 and len(codes) > 1:
        return f"{len(codes)} × {codes[0]}"
    return " × ".join(map(str, codes))
