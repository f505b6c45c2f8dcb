"""`--device` and `--num-workers` in torch's and Lightning's terms."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from squeeze_cli.errors import SqueezeError

_AVAILABLE: dict[str, Callable[[], bool]] = {
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
}
# More decoding workers than this only take time from a backbone that is not much faster.
MOST_WORKERS = 8


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `mps` means here; SqueezeError where there is none."""
    if name == "auto":
        name = next((kind for kind, available in _AVAILABLE.items() if available()), "cpu")
    elif name in _AVAILABLE and not _AVAILABLE[name]():
        raise SqueezeError(f"--device {name} is not available here: take --device auto or cpu.")
    return torch.device(name)


def available_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def choose_workers(wanted: int | None) -> int:
    """Worker processes for decoding images: as asked, or one a core up to `MOST_WORKERS`."""
    return wanted if wanted is not None else min(MOST_WORKERS, available_cores())
