"""The prior's file: a safetensors file of its integer arrays, checked against its digest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from squeeze_cli.codec.errors import DamagedCodesError
from squeeze_cli.codec.prior import CodePrior
from squeeze_cli.errors import SqueezeError
from squeeze_cli.files import replacing

FORMAT = "squeeze-prior"
VERSION = 1


def write_prior(path: Path, prior: CodePrior) -> None:
    """Write the prior, atomically."""
    arrays = {name: np.ascontiguousarray(array) for name, array in prior.arrays().items()}
    with replacing(path) as temporary:
        save_file(arrays, temporary, metadata=_metadata(prior))


def read_prior(path: Path) -> CodePrior:
    """Read what `write_prior` wrote.

    Raises:
        SqueezeError: there is no such file, or it is of a newer version.
        DamagedCodesError: the file is damaged.
    """
    if not path.exists():
        raise SqueezeError(f"There is no prior {path}: take the whole folder of the run.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if int(metadata.get("version", 0)) > VERSION:
                raise SqueezeError(f"{path} is of a newer version: update squeeze.")
            names = file.keys()
            prior = CodePrior.from_arrays({name: file.get_tensor(name) for name in names})
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise DamagedCodesError(f"{path} is damaged ({error}): train the run again.") from None
    if metadata != _metadata(prior):
        raise DamagedCodesError(f"{path} is damaged: train the run again.")
    return prior


def _metadata(prior: CodePrior) -> dict[str, str]:
    return {"format": FORMAT, "version": str(VERSION), "digest": prior.digest}
