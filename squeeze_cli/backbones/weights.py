"""Backbone weights: published ones through torchvision, or a file; never by unpickling code."""

from __future__ import annotations

import hashlib
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from squeeze_cli.errors import SqueezeError, UsageError

_FIX = (
    "give a file with --weights PATH, or take --model efficientnet-lite0, whose weights come "
    "with squeeze"
)

# Random weights are for tests: one fixed seed, so that all runs "with random features" share them.
RANDOM_WEIGHTS_SEED = 0


class Weights:
    """The place of a backbone's weights, identified without reading them into a network.

    Attributes:
        source: as `--weights` says: `default`, `none` or a path.
        file: the file that holds them; None where they are random.
    """

    def __init__(self, source: str, file: Path | None = None) -> None:
        self.source = source
        self.file = file
        if file is not None and not file.is_file():
            raise SqueezeError(f"There is no weights file {file}: check --weights, or {_FIX}.")
        self._stamp = None if file is None else _stamp(file)

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of the file, or of the seed and versions that decide random weights.

        Raises SqueezeError if the file cannot be read, or was changed since it was chosen.
        """
        if self.file is not None:
            try:
                with self.file.open("rb") as opened:
                    digest = hashlib.file_digest(opened, "sha256").hexdigest()
            except OSError as error:
                raise SqueezeError(
                    f"{self.file} is no readable weights file ({error.strerror}): {_FIX}."
                ) from None
            self._require_unchanged(self.file)
            return digest
        makers = " ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))
        return hashlib.sha256(f"random {RANDOM_WEIGHTS_SEED} {makers}".encode()).hexdigest()

    def read(self) -> dict[str, Tensor] | None:
        """Read the state dict in a `.safetensors` file, or in another by torch with weights_only.

        The nesting of training checkpoints (`state_dict`, `model`) is unwrapped. Random weights
        give None. Raises SqueezeError if the file holds no state dict, or was changed since it was
        chosen, because its digest would then stand for other weights.
        """
        if self.file is None:
            return None
        state = _read_state(self.file)
        self._require_unchanged(self.file)
        return state

    def _require_unchanged(self, file: Path) -> None:
        if _stamp(file) != self._stamp:
            raise SqueezeError(f"{file} was changed meanwhile: run the same command again.")


def _stamp(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


def published_weights(enumeration: Any, name: str) -> Path:
    """Return the file that torchvision publishes as `enumeration[name]`, downloading it if needed.

    Raises UsageError for a name that torchvision does not know, SqueezeError without a network.
    """
    if name not in enumeration.__members__:
        known = ", ".join(enumeration.__members__)
        raise UsageError(f"torchvision has no weights {name!r} for this backbone: choose {known}.")
    url, place = enumeration[name].url, published_place(enumeration[name])
    if place.exists():
        return place
    _, _, expected = place.stem.rpartition("-")  # published files are named after their SHA-256
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(place), expected, progress=False)
    except (URLError, OSError, RuntimeError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise SqueezeError(
            f"Cannot download the weights {enumeration.__name__}.{name} ({reason}): put "
            f"{url} at {place}, {_FIX}."
        ) from None
    return place


def published_place(weights: Any) -> Path:
    """Return the path at which torchvision keeps published weights (an entry of its enumerations)."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - unpickling damaged bytes can raise anything
        reason = " ".join(str(error).split())[:200]
        raise SqueezeError(f"{path} is no readable weights file ({reason}): {_FIX}.") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise SqueezeError(f"{path} holds no state dict (names to tensors): {_FIX}.")
    return state


def load_strictly(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load `state`, whose names and shapes must all fit; raise SqueezeError naming what does not.

    The module may be on torch's `meta` device: its parameters are replaced, as float32.
    """
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    try:
        # Modules know their own older names, which published files still have: those of ViT's MLPs.
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise SqueezeError(
            f"The weights {source} do not fit this backbone ({reason}): {_FIX}."
        ) from None
