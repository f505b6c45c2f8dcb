"""Files of priors: safetensors of integers, whose metadata has their digest."""

import json
from collections.abc import Mapping
from pathlib import Path

from squeeze_cli.codec.coefficient_prior import CoefficientPrior
from squeeze_cli.codec.prior import Array, CodePrior, Prior
from squeeze_cli.errors import DamagedCodesError, SqueezeError
from squeeze_cli.files import write_atomically

FORMAT = "squeeze-prior"
# The kinds of priors by the version of their files.
KINDS: dict[int, type[Prior]] = {kind.version: kind for kind in (CodePrior, CoefficientPrior)}


def write_prior(path: Path, prior: Prior) -> None:
    """Write the prior atomically, as a safetensors file; the same prior has the same bytes."""
    # Wider types come first, as the library orders them, so that all tensors are aligned.
    arrays = dict(sorted(prior.arrays().items(), key=lambda item: -item[1].itemsize))
    content = [build_header(_metadata(prior), arrays), *(a.tobytes() for a in arrays.values())]
    write_atomically(path, b"".join(content))


def build_header(metadata: Mapping[str, str], arrays: Mapping[str, Array]) -> bytes:
    """Return the bytes of a safetensors file before its tensors: the header's length, and the header.

    The safetensors library itself writes the metadata in an order that varies.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    begin = 0
    for name, array in arrays.items():
        end = begin + array.nbytes
        dtype = f"{array.dtype.kind.upper()}{8 * array.itemsize}"
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": (begin, end)}
        begin = end
    text = to_json(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text


def to_json(value: object) -> str:
    """Return a value as JSON without blanks, as in the header of a file."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def read_prior(path: Path) -> Prior:
    """Read a prior that `write_prior` wrote, and check its digest.

    Raises SqueezeError if there is no such file, or if it is of a newer version or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise SqueezeError(f"There is no prior {path}: use the whole folder of the run.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            version = int(metadata.get("version", 0))
            if version > max(KINDS):
                raise SqueezeError(f"{path} is of a newer version: update squeeze.")
            named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            prior = KINDS[version].from_arrays(named)
    except (SafetensorError, KeyError, ValueError, OSError, TypeError, IndexError) as error:
        raise DamagedCodesError(f"{path} is damaged ({error}): train the run again.") from None
    if metadata != _metadata(prior):
        raise DamagedCodesError(f"{path} is damaged: train the run again.")
    return prior


def _metadata(prior: Prior) -> dict[str, str]:
    return {"format": FORMAT, "version": str(prior.version), "digest": prior.digest}
