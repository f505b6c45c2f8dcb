"""Time, loss, memory and disk of `squeeze train`, compared with a plain loop.

    python -m benchmarks.training --backbone vit --images 300 --data-dir ../shared/data
    python -m benchmarks.training --backbone deeplab --images 100 --data-dir ../shared/data

Each program is a fresh process, timed from its start to its end, including imports:

- plain: `benchmarks.plain_loop`, with the backbone in every step;
- cold: `squeeze train` with an empty feature store;
- warm: a second `squeeze train` on the same images;
- five: vq, fsq, lfq, rvq and none, one `squeeze train` after the other, with an empty store at first;
- with `--bf16`, those of `squeeze train` again with `--precision bf16`, and separately stored features.

ViT and DeepLab have random weights, which are as fast as the published ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from benchmarks.machine import show, weights_at_hand
from benchmarks.processes import Cost, disk_mib, measure
from squeeze_cli.config.parts import BACKBONES
from squeeze_cli.config.resolve import resolve_defaults, with_values, write_config
from squeeze_cli.config.schema import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    QuantizerConfig,
    TrainingConfig,
)
from squeeze_cli.runs import RunFolder

# fsq and lfq are ours around the library's: a plain loop of the same model would be our code again.
COMPARABLE = ("vq", "rvq", "none")
# Those that docs/performance.md has figures and goals for.
FIVE = ("vq", "fsq", "lfq", "rvq", "none")


@dataclass(frozen=True)
class Outcome:
    """Cost and results of a program: last training loss, last and best validation mIoU."""

    cost: Cost
    train_loss: float | None = None
    val_iou: float | None = None
    best_val_iou: float | None = None

    @classmethod
    def of_history(cls, cost: Cost, history: list[dict[str, Any]]) -> Outcome:
        """Return the outcome from the epochs' metrics, which both programs keep in the same form."""
        return cls(
            cost,
            history[-1]["train"]["loss"],
            history[-1]["val"]["iou"],
            max(epoch["val"]["iou"] for epoch in history),
        )


def make_config(
    options: argparse.Namespace, quantizer: str, precision: str = "32"
) -> ExperimentConfig:
    """Return the experiment, which is the same for all programs but for the precision."""
    quantizer_config = QuantizerConfig(type=quantizer)
    if quantizer != "none":  # whose features are not coded
        quantizer_config = QuantizerConfig(type=quantizer, codes="plain")
    return resolve_defaults(
        ExperimentConfig(
            quantizer=quantizer_config,
            model=ModelConfig(
                backbone=options.backbone,
                weights=weights_at_hand(options.backbone),
            ),
            data=DataConfig(data_dir=str(options.data_dir.resolve()), subset_size=options.images),
            training=TrainingConfig(
                epochs=options.epochs,
                batch_size=options.batch_size,
                device=options.device,
                precision=precision,
            ),
        )
    )


def run_ours(config: ExperimentConfig, place: Path, name: str) -> Outcome:
    """Run `squeeze train`, with the store and the run below `place`."""
    config = with_values(
        config,
        {
            "name": name,
            "output_dir": str(place / "runs"),
            "data.cache_dir": str(place / "cache"),
        },
    )
    file = place / f"{name}.yaml"
    write_config(file, config)
    cost = measure(
        [sys.executable, "-m", "squeeze_cli", "train", "--config", str(file), "--no-progress"]
    )
    record = RunFolder(place / "runs" / name).read_record()
    return Outcome.of_history(cost, record.model_dump()["history"])


def run_plain(config: ExperimentConfig, place: Path) -> Outcome:
    """Run the plain loop, from a starting point whose computation is not timed."""
    write_config(place / "config.yaml", config)
    measure([sys.executable, "-m", "benchmarks.starting_point", str(place)])
    cost = measure([sys.executable, "-m", "benchmarks.plain_loop", str(place)])
    result = json.loads((place / "plain.json").read_text(encoding="utf-8"))
    return Outcome.of_history(cost, result["history"])


def run_twice(config: ExperimentConfig, folders: list[Path], suffix: str) -> dict[str, Outcome]:
    """Run twice in each folder, without and with stored features; return outcomes of median time."""
    runs: dict[str, list[Outcome]] = {f"cold{suffix}": [], f"warm{suffix}": []}
    for folder in folders:
        for name, outcomes in runs.items():
            outcomes.append(run_ours(config, folder, name.replace(" ", "-")))
    return {
        name: sorted(outcomes, key=lambda outcome: outcome.cost.wall_s)[len(outcomes) // 2]
        for name, outcomes in runs.items()
    }


def run_five(
    options: argparse.Namespace, place: Path, precision: str, suffix: str
) -> dict[str, Outcome]:
    """Run every quantizer in turn, with one store that is empty at first; the first result is the sum."""
    place.mkdir()
    five = {name: run_ours(make_config(options, name, precision), place, name) for name in FIVE}
    total, *others = (outcome.cost for outcome in five.values())
    for cost in others:
        total += cost
    named = {f"  {name}{suffix}": outcome for name, outcome in five.items()}
    return {f"five{suffix}": Outcome(total)} | named


def compare(options: argparse.Namespace, place: Path) -> tuple[dict[str, Outcome], dict[str, Any]]:
    """Run all programs, and measure the disk space of one experiment."""
    config = make_config(options, options.quantizer)
    singles = [place / f"single-{i}" for i in range(options.repeats)]
    for folder in (place / "plain", *singles):
        folder.mkdir()
    outcomes = {"plain": run_plain(config, place / "plain")}
    outcomes |= run_twice(config, singles, "")
    disk = {
        "store_mib": disk_mib(singles[0] / "cache"),
        "run_mib": disk_mib(singles[0] / "runs" / "cold"),
    }
    precisions = {"32": ""}
    if options.bf16:
        precisions["bf16"] = " bf16"
        outcomes |= run_twice(make_config(options, options.quantizer, "bf16"), singles, " bf16")
    if not options.no_five:
        for precision, suffix in precisions.items():
            outcomes |= run_five(options, place / f"five-{precision}", precision, suffix)
    return outcomes, disk


def make_table(outcomes: dict[str, Outcome], title: str) -> Table:
    """Make one row per program; ratios are to the plain loop's time of the same run."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in (
        "wall s", "ratio", "CPU s", "ratio", "peak MiB", "load", "train loss", "val mIoU %", "best",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    plain = outcomes["plain"].cost
    for name, outcome in outcomes.items():
        cost = outcome.cost
        table.add_row(
            name,
            f"{cost.wall_s:.1f}",
            f"{cost.wall_s / plain.wall_s:.3f}",
            f"{cost.cpu_s:.1f}",
            f"{cost.cpu_s / plain.cpu_s:.3f}",
            f"{cost.peak_mib:.0f}",
            f"{cost.load:.1f}",
            *(
                "" if value is None else f"{value:{form}}"
                for value, form in (
                    (outcome.train_loss, ".4f"),
                    (outcome.val_iou and 100 * outcome.val_iou, ".2f"),
                    (outcome.best_val_iou and 100 * outcome.best_val_iou, ".2f"),
                )
            ),
        )
    return table


def main() -> None:
    """Run all programs in a temporary folder, print and save the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", type=BACKBONES.check, metavar="NAME", default="vit")
    parser.add_argument("--images", type=int, default=300, help="of trainval; as many of test")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument(
        "--bf16", action="store_true", help="ours also with --precision bf16, store and all"
    )
    parser.add_argument("--quantizer", choices=COMPARABLE, default="vq")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of all programs")
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument(
        "--repeats", type=int, default=1, help="of the cold and the warm run, for their median"
    )
    parser.add_argument("--no-five", action="store_true", help="leave the five quantizers out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="squeeze-benchmark-") as place:
        outcomes, disk = compare(options, Path(place))
    title = (
        f"{options.backbone} + {options.quantizer}, {options.images} images, {options.epochs} "
        f"epochs, batch size {options.batch_size}, {options.device}"
    )
    notes = f"Disk: store {disk['store_mib']:.0f} MiB, a run {disk['run_mib']:.0f} MiB."
    figures = {
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()},
        "contenders": {name.strip(): asdict(outcome) for name, outcome in outcomes.items()},
        "disk": disk,
    }
    del figures["settings"]["json"], figures["settings"]["data_dir"]
    show(Group(make_table(outcomes, title), notes), figures, options.json)


if __name__ == "__main__":
    main()
