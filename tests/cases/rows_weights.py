"""Cases of weights: files that are not the run's own, and weights files that are no good."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from squeeze_cli.codec.prior import CodePrior, read_prior, write_prior
from tests.cases.table import Case

STOPPED = "train --resume --name stopped --no-progress"


def copied(source: str, target: str) -> Callable[[Path], object]:
    """A change of the input: one of its files replaces another."""
    return lambda folder: shutil.copy(folder / source, folder / target)


def replaced(file: str, old: str, new: str) -> Callable[[Path], object]:
    """A change of the input: a text in a file is replaced."""

    def replace(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))

    return replace


def other_prior(folder: Path) -> None:
    """Put a whole prior for the same codes in the place of the run's own."""
    file = folder / "runs/vq/prior.safetensors"
    symbol = read_prior(file).symbols[0]
    write_prior(file, CodePrior((symbol._replace(bonus=symbol.bonus + 1),)))


def config_case(key: str, old: str, new: str, run: str = "vq") -> Case:
    """A value of a run's config.yaml that was changed by hand."""
    file = f"runs/{run}/config.yaml"
    return Case(
        f"{key} changed in config.yaml",
        f"extract-embeddings runs/{run} --images images",
        1,
        (f"{file} was changed since the run was trained ({key}: ", "change it back"),
        uses=("images", f"runs/{run}"),
        make=replaced(file, old, new),
        writes=(),
    )


# Every command that loads a run's weights.
LOADING = {
    "evaluate": "evaluate runs/vq",
    "show": "show runs/vq",
    "extract-embeddings": "extract-embeddings runs/vq --images images",
    "decode": "decode codes --run runs/vq --to masks --out masks-out",
}
USED = ("pets", "images", "codes", "runs/vq", "runs/stopped", "runs/base")

ROWS = (
    *(
        Case(
            f"{name} with the weights of another run",
            command,
            1,
            ("runs/vq/checkpoints/best.ckpt holds the weights of another run", "bring this run's"),
            uses=USED,
            make=copied("runs/stopped/checkpoints/best.ckpt", "runs/vq/checkpoints/best.ckpt"),
            writes=(),
        )
        for name, command in LOADING.items()
    ),
    Case(
        "weights of other shapes",
        LOADING["decode"],
        1,
        ("runs/vq/checkpoints/best.ckpt is no checkpoint of this run",),
        uses=USED,
        make=copied("runs/base/checkpoints/best.ckpt", "runs/vq/checkpoints/best.ckpt"),
        writes=(),
    ),
    Case(
        "the prior of another run",
        LOADING["extract-embeddings"],
        1,
        ("runs/vq/prior.safetensors is not this run's",),
        uses=("images", "runs/vq"),
        make=other_prior,
        writes=(),
    ),
    Case(
        "the record of another run",
        LOADING["decode"],
        1,
        ("runs/vq/config.yaml was changed",),
        uses=("codes", "runs/vq", "runs/base"),
        make=copied("runs/base/run.json", "runs/vq/run.json"),
        writes=(),
    ),
    config_case("data.classes", "classes: null", "classes: {1: border, 2: pet, 3: background}"),
    config_case("data.fit", "fit: squash", "fit: pad"),
    config_case("data.image_size", "image_size: 64", "image_size: 96"),
    config_case("data.subset_size", "subset_size: 20", "subset_size: 19"),
    config_case("training.seed", "seed: 42", "seed: 43"),
    config_case("quantizer.codebook_size", "codebook_size: 512", "codebook_size: 256"),
    config_case("quantizer.levels", "  - 8\n  - 5\n", "  - 5\n  - 8\n", run="recon"),
    Case(
        "a run's config.yaml with other places",
        LOADING["extract-embeddings"],
        uses=("images", "runs/vq"),
        make=replaced("runs/vq/config.yaml", "data_dir: pets", "data_dir: elsewhere"),
    ),
    *(
        Case(
            f"resume from the last.ckpt of a run of {name}",
            STOPPED,
            1,
            ("runs/stopped/checkpoints/last.ckpt is no checkpoint of this run", "--overwrite"),
            uses=("pets", "runs/stopped", f"runs/{run}"),
            make=copied(f"runs/{run}/checkpoints/last.ckpt", "runs/stopped/checkpoints/last.ckpt"),
        )
        for name, run in {"the same shapes": "vq", "other shapes": "base"}.items()
    ),
    Case(
        "resume with a changed config.yaml",
        STOPPED,
        1,
        ("runs/stopped/config.yaml was changed", "training.lr"),
        uses=("pets", "runs/stopped"),
        make=replaced("runs/stopped/config.yaml", "lr: 0.001", "lr: 0.002"),
    ),
    Case("resume", STOPPED, uses=("pets", "runs/stopped")),
)  # fmt: skip
