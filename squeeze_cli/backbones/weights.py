"""Backbone weights: published ones through torchvision, or a file; never by unpickling code."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
    """The place of a backbone's weights: a file, or None where they are random.

    `source` is what `--weights` says: `default`, `none` or a path.
    """

    def __init__(self, source: str, file: Path | None = None) -> None:
        self.source = source
        self.file = file
        if file is not None and not file.is_file():
            raise SqueezeError(f"There is no weights file {file}: check --weights, or {_FIX}.")
        self._mtime_ns = None if file is None else file.stat().st_mtime_ns

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of the file, or of the seed and versions that decide random weights."""
        if self.file is None:
            makers = " ".join(
                f"{name} {version(name)}" for name in ("torch", "torchvision", "timm")
            )
            return hashlib.sha256(f"random {RANDOM_WEIGHTS_SEED} {makers}".encode()).hexdigest()
        with self._reading(self.file), self.file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()

    def read(self) -> dict[str, Tensor] | None:
        """Read the state dict in a `.safetensors` file, or in another by torch with weights_only.

        The nesting of training checkpoints (`state_dict`, `model`) is unwrapped. Random weights
        give None. Raises SqueezeError if the file holds no state dict.
        """
        if self.file is None:
            return None
        with self._reading(self.file):
            if self.file.suffix == ".safetensors":
                from safetensors.torch import load_file

                state: Any = load_file(self.file)
            else:
                state = torch.load(self.file, map_location="cpu", weights_only=True)
        for key in ("state_dict", "model"):
            if isinstance(state, dict) and isinstance(state.get(key), dict):
                state = state[key]
        if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
            raise SqueezeError(f"{self.file} holds no state dict (names to tensors): {_FIX}.")
        return state

    @contextmanager
    def _reading(self, file: Path) -> Iterator[None]:
        """Raise SqueezeError if the file cannot be read, or was changed since it was chosen."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - unpickling damaged bytes can raise anything
            reason = " ".join(str(error).split())[:200]
            raise SqueezeError(f"{file} is no readable weights file ({reason}): {_FIX}.") from None
        if file.stat().st_mtime_ns != self._mtime_ns:
            raise SqueezeError(f"{file} was changed meanwhile: run the same command again.")


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
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise SqueezeError(
            f"Cannot download the weights {enumeration.__name__}.{name} ({reason}): put "
            f"{url} at {place}, {_FIX}."
        ) from None
    return place


def published_place(weights: Any) -> Path:
    """Return the path at which torchvision keeps published weights (an entry of its enumerations)."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name


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
