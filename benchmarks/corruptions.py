"""Reading of squeeze's files after random changes; none may be read wrongly.

    python -m benchmarks.corruptions --count 10000

Bits are flipped; pieces are overwritten, removed, duplicated or swapped; files are truncated, spliced
with similar files or filled with zeros. Each reading must raise squeeze's own error, or return the
original content: any other content is *wrong*, and any other exception is a *crash*.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.machine import show
from squeeze_cli.errors import SqueezeError

TRAINING = {
    "model.backbone": "efficientnet-lite0", "data.dataset": "synthetic", "data.image_size": 64,
    "data.subset_size": 16, "data.num_workers": 0, "training.epochs": 1, "training.max_batches": 2,
}  # fmt: skip
OUTCOMES = ("reported", "the same", "wrong", "crash")


@dataclass(frozen=True)
class Target:
    """A file to corrupt, a similar file, and the content that is read from it, as comparable text."""

    name: str
    file: Path
    other: bytes
    read: Callable[[], str]


def corrupt(content: bytes, other: bytes, dice: np.random.Generator) -> bytes:
    """Change the bytes of a file in one of nine ways; `other` is of its kind."""
    size = len(content)
    begin = int(dice.integers(size))
    length = int(dice.integers(1, min(size, 4096) + 1))
    end, place = min(size, begin + length), int(dice.integers(size))
    piece = content[begin:end]
    changed = bytearray(content)
    match int(dice.integers(9)):
        case 0:  # a bit
            changed[begin] ^= 1 << int(dice.integers(8))
        case 1:  # some bits
            for position in dice.integers(size, size=int(dice.integers(2, 20))):
                changed[position] ^= 1 << int(dice.integers(8))
        case 2:
            changed[begin:end] = dice.bytes(end - begin)
        case 3:
            changed[begin:end] = bytes(end - begin)
        case 4:
            del changed[begin:]
        case 5:
            del changed[begin:end]
        case 6:
            changed[place:place] = piece
        case 7:
            changed[place : place + len(piece)] = piece
        case 8:
            changed[begin:] = other[begin:]
    return bytes(changed)


def make_targets(folder: Path) -> list[Target]:
    """Train two small runs and return the files of the first that are read again."""
    from squeeze_cli.api import open_run, train
    from squeeze_cli.codec.container import CodesFile
    from squeeze_cli.codec.prior_files import read_prior
    from squeeze_cli.config.resolve import with_values
    from squeeze_cli.config.schema import ExperimentConfig
    from squeeze_cli.features.shards import DamagedShardError, open_shard

    config = with_values(ExperimentConfig(output_dir=str(folder / "runs")), TRAINING)
    cache = {"data.cache_dir": str(folder / "cache")}
    for seed, name in ((1, "a"), (2, "b")):
        train("vq", config=with_values(config, cache), seed=seed, name=name)
    run, other = open_run(folder / "runs" / "a"), open_run(folder / "runs" / "b")
    stored = run.folder.codes_folder / "test.sqz"
    packed = folder / "packed.sqz"
    packed.write_bytes(run.encode(run.open(stored).read(), run.open(stored).names, "packed"))
    shards = sorted((folder / "cache").rglob("*.safetensors"))
    beside = other.folder.codes_folder / "test.sqz"

    def codes(path: Path) -> str:
        file = CodesFile(path, run.prior).require_run(run.digest)
        content = (file.names, file.header.model_dump_json(), file.read().tobytes())
        return repr(content)

    def shard() -> str:
        try:
            opened = open_shard(shards[0])
            rows = [opened.read(row).tobytes() for row in range(len(opened.digests))]
        except DamagedShardError as error:  # its rows are computed again
            raise SqueezeError(str(error)) from None
        return repr((opened.digests, rows))

    def weights() -> str:
        return open_run(run.folder.path).network.digest()

    return [
        Target("codes file, prior", stored, beside.read_bytes(), lambda: codes(stored)),
        Target("codes file, packed", packed, beside.read_bytes(), lambda: codes(packed)),
        Target("prior", run.folder.prior_file, other.folder.prior_file.read_bytes(),
               lambda: read_prior(run.folder.prior_file).digest),
        Target("shard of the feature store", shards[0], shards[-1].read_bytes(), shard),
        Target("best.ckpt", run.folder.best_checkpoint, other.folder.best_checkpoint.read_bytes(),
               weights),
    ]  # fmt: skip


def attack(target: Target, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Corrupt a file `count` times; return the number of each outcome, and the faults."""
    dice = np.random.default_rng(seed)
    content, true = target.file.read_bytes(), digest(target.read())
    outcomes: Counter[str] = Counter()
    faults = []
    for number in range(count):
        changed = corrupt(content, target.other, dice)
        target.file.write_bytes(changed)
        try:
            outcome = "the same" if digest(target.read()) == true else "wrong"
        except SqueezeError:
            outcome = "reported"
        except Exception as error:  # noqa: BLE001 - any other is a fault
            outcome = "crash"
            faults.append(f"{target.name}, {number}: {type(error).__name__}: {error}")
        if outcome == "wrong":
            faults.append(f"{target.name}, {number}: read as something else")
        outcomes[outcome] += 1
    target.file.write_bytes(content)
    return outcomes, faults


def digest(text: str) -> str:
    """Return a digest of the content that was read."""
    return blake2b(text.encode()).hexdigest()


def main() -> None:
    """Run the command line; exit status 1 where a file was read wrongly or reading crashed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--count", type=int, default=10_000, help="corruptions of all files together"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    began = time.perf_counter()
    table = Table(title="Corruptions", title_justify="left")
    for heading in ("file", *OUTCOMES):
        table.add_column(heading, justify="left" if heading == "file" else "right")
    figures: dict[str, object] = {}
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        targets = make_targets(Path(folder))
        for target in targets:
            outcomes, found = attack(target, -(-options.count // len(targets)), options.seed)
            faults += found
            table.add_row(target.name, *(str(outcomes[outcome]) for outcome in OUTCOMES))
            figures[target.name] = dict(outcomes)
    figures |= {"faults": faults, "seconds": time.perf_counter() - began}
    show(table, figures, options.json)
    print("\n".join(faults[:20]))
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
