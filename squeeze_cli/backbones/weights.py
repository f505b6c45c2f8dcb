"""Loading backbone weights: published ones through torchvision, or a file; never by unpickling code."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from squeeze_cli.errors import SqueezeError, UsageError

_MEND = (
    "give a file with --weights PATH, or take --model efficientnet-lite0, whose weights come "
    "with squeeze"
)


def published_weights(enumeration: Any, name: str) -> dict[str, Tensor]:
    """The state dict that torchvision publishes as `enumeration[name]`, from its cache or network.

    Raises UsageError for a name that torchvision does not know, SqueezeError without a network.
    """
    if name not in enumeration.__members__:
        known = ", ".join(enumeration.__members__)
        raise UsageError(f"torchvision has no weights {name!r} for this backbone: choose {known}.")
    weights = enumeration[name]
    try:
        state: dict[str, Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (URLError, OSError, RuntimeError) as error:
        place = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise SqueezeError(
            f"Cannot download the weights {enumeration.__name__}.{name} ({reason}): put "
            f"{weights.url} at {place}, {_MEND}."
        ) from None
    return state


def weights_from_file(path: Path) -> dict[str, Tensor]:
    """The state dict in a `.safetensors` file, or in a `.pth`/`.pt` file read with weights_only.

    A training checkpoint's own nesting (`state_dict`, `model`) is unwrapped. Raises SqueezeError
    where there is no such file or it holds something else.
    """
    if not path.is_file():
        raise SqueezeError(f"There is no weights file {path}: check --weights, or {_MEND}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - unpickling damaged bytes can raise anything
        reason = " ".join(str(error).split())[:200]
        raise SqueezeError(f"{path} is no readable weights file ({reason}): {_MEND}.") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise SqueezeError(f"{path} holds no state dict (names to tensors): {_MEND}.")
    return state


def load_strictly(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load `state`, every name and shape of which must fit; raises SqueezeError saying what does not."""
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    misshapen = [n for n in own if n in state and own[n].shape != state[n].shape]
    for what, names in (("lacks", missing), ("has unknown", unexpected), ("misshapes", misshapen)):
        if names:
            raise SqueezeError(
                f"The weights {source} do not fit this backbone: {what} {names[0]}"
                f"{f' and {len(names) - 1} more' if len(names) > 1 else ''}; {_MEND}."
            )
    module.load_state_dict(state)
