"""A codes file: the codes of many images, each readable by itself; docs/codes-format.md.

A safetensors file with four tensors, in this order:

    crc32    U32 [1]         of every byte before `payload`, these four counted as zeros
    lengths  U8/U16/U32 [n]  bytes of each image's piece of the payload
    names    U8 [m]          the images' names, front-coded and deflated
    payload  U8 [p]          the images' pieces, each with a CRC-32 of its codes

and metadata: format, version, quantizer, code_sizes, grid, coding, prior and run.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.codec.coding import CODINGS, decode_pieces, encode_pieces
from squeeze_cli.codec.errors import DamagedCodesError
from squeeze_cli.codec.layout import Layout, build_prefix, read_layout
from squeeze_cli.codec.names import compress_names, decompress_names
from squeeze_cli.codec.prior import CodePrior
from squeeze_cli.codec.prior_coding import Slots
from squeeze_cli.errors import SqueezeError
from squeeze_cli.files import replacing

FORMAT = "squeeze-codes"
VERSION = 1
# Images that `CodesFile.batches` gives at a time.
BATCH_IMAGES = 256


@dataclass(frozen=True)
class CodesHeader:
    """What all images of a codes file share.

    Attributes:
        quantizer: the registry name of what made the codes.
        code_sizes: for each of a vector's Q codes how many values it has.
        grid: rows and columns of an image's vectors.
        coding: how the payload is coded: `packed` or `prior`.
        run: digest of the run that made the codes, so that no other decodes them; may be empty.
        prior: digest of the prior behind the coding `prior`.
    """

    quantizer: str
    code_sizes: tuple[int, ...]
    grid: tuple[int, int]
    coding: str
    run: str = ""
    prior: str = ""

    @property
    def vectors_per_image(self) -> int:
        """Rows times columns."""
        return self.grid[0] * self.grid[1]


def encode_codes(
    codes_nhwq: NDArray[np.integer],
    names: Sequence[str],
    *,
    quantizer: str,
    code_sizes: Sequence[int],
    run: str = "",
    prior: CodePrior | None = None,
    slots: Slots | None = None,
) -> bytes:
    """The codes of n images as the bytes of a codes file.

    Args:
        codes_nhwq: `[n, h, w, Q]`, each below its size.
        names: one for each image.
        quantizer: registry name of what made the codes.
        code_sizes: Q sizes.
        run: digest of the run.
        prior: codes them by it; without one they are packed.
        slots: what the prior gives these codes, where it has been computed already.

    Raises ValueError where the arguments contradict each other.
    """
    n, rows, columns, q = codes_nhwq.shape
    if len(names) != n or len(code_sizes) != q:
        raise ValueError(f"codes of shape {codes_nhwq.shape}, {len(names)} names, {code_sizes}")
    header = CodesHeader(
        quantizer, tuple(code_sizes), (rows, columns),
        "packed" if prior is None else "prior", run, "" if prior is None else prior.digest,
    )  # fmt: skip
    return assemble(header, names, encode_pieces(codes_nhwq, code_sizes, prior, slots))


def assemble(header: CodesHeader, names: Sequence[str], pieces: Sequence[bytes]) -> bytes:
    """A codes file's bytes from the images' encoded pieces."""
    longest = max((len(piece) for piece in pieces), default=0)
    smallest = next(d for d in ("u1", "<u2", "<u4") if longest <= np.iinfo(np.dtype(d)).max)
    tensors: dict[str, NDArray[Any]] = {
        "crc32": np.zeros(1, "<u4"),
        "lengths": np.asarray([len(piece) for piece in pieces], dtype=smallest),
        "names": np.frombuffer(compress_names(names), np.uint8),
        "payload": np.frombuffer(b"".join(pieces), np.uint8),
    }
    prefix = build_prefix(_to_metadata(header), tensors)
    index = b"".join(tensors[name].tobytes() for name in ("lengths", "names"))
    crc = zlib.crc32(prefix + bytes(4) + index)
    return prefix + crc.to_bytes(4, "little") + index + tensors["payload"].tobytes()


def write_codes(path: Path, content: bytes) -> None:
    """Write what `encode_codes` made, atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


class CodesFile:
    """An open codes file: its header and names; the payload is read image by image.

    Opening checks everything but the payload, whose pieces are checked when they are decoded. A file
    of the coding `prior` is decoded by the prior that made it, which is in the run's folder.

    Raises:
        SqueezeError: there is no such file, it is of a newer version, or made by another prior.
        DamagedCodesError: the file is no codes file, truncated or changed.
    """

    def __init__(self, path: Path, prior: CodePrior | None = None) -> None:
        self.path = path
        self._prior = prior
        try:
            with path.open("rb") as file:
                layout = read_layout(file)
                self.header = _from_metadata(layout, path)
                index = _read_index(file, layout)
        except DamagedCodesError as error:
            raise self._damaged(error) from None
        except OSError as error:
            raise SqueezeError(f"{path} cannot be read: {error.strerror}.") from None
        self._ends = np.cumsum(index["lengths"], dtype=np.int64)
        self._begins = self._ends - index["lengths"]
        _, _, self._payload_at, end = layout.tensors["payload"]
        try:
            self.names = decompress_names(index["names"].tobytes(), len(self._ends))
            if int(self._ends[-1] if len(self._ends) else 0) != end - self._payload_at:
                raise DamagedCodesError("the lengths do not add up to the payload")
        except DamagedCodesError as error:
            raise self._damaged(error) from None
        self.file_bytes = end
        if (
            prior is not None
            and self.header.coding == "prior"
            and self.header.prior != prior.digest
        ):
            raise SqueezeError(
                f"{path} was coded by another prior ({self.header.prior}, not {prior.digest}): give "
                "the run that made it."
            )

    def __len__(self) -> int:
        return len(self.names)

    def require_run(self, digest: str) -> Self:
        """Raise SqueezeError unless the run with this digest made the file."""
        if self.header.run != digest:
            raise SqueezeError(
                f"{self.path} was made by another run ({self.header.run or 'unnamed'}, not "
                f"{digest}): give the run that made it, or one with the same checkpoint."
            )
        return self

    def read(self, positions: Sequence[int] | slice = slice(None)) -> NDArray[np.int32]:
        """The codes `[n, h, w, Q]` of the images at these positions; only their bytes are read.

        Raises DamagedCodesError where the bytes are not those that were written.
        """
        prior = self._prior if self.header.coding == "prior" else None
        if self.header.coding == "prior" and prior is None:
            raise SqueezeError(f"{self.path} is coded by a prior: give the run that made it.")
        chosen = np.arange(len(self))[positions]
        begins, ends = self._begins[chosen], self._ends[chosen]
        with self.path.open("rb") as file:
            pieces = []
            for begin, end in zip(begins, ends, strict=True):
                file.seek(self._payload_at + int(begin))
                pieces.append(file.read(int(end - begin)))
        try:
            return decode_pieces(pieces, self.header.grid, self.header.code_sizes, prior)
        except DamagedCodesError as error:
            raise self._damaged(error) from None

    def batches(
        self, images: int = BATCH_IMAGES
    ) -> Iterator[tuple[tuple[str, ...], NDArray[np.int32]]]:
        """All images in order, some at a time: (names, codes `[b, h, w, Q]`); memory stays flat."""
        for begin in range(0, len(self), images):
            part = slice(begin, begin + images)
            yield self.names[part], self.read(part)

    def _damaged(self, error: DamagedCodesError) -> DamagedCodesError:
        return DamagedCodesError(
            f"{self.path} is damaged, or no codes file ({error}): make it again."
        )


def _to_metadata(header: CodesHeader) -> dict[str, str]:
    return {
        "format": FORMAT,
        "version": str(VERSION),
        "quantizer": header.quantizer,
        "code_sizes": _to_text(header.code_sizes),
        "grid": _to_text(header.grid),
        "coding": header.coding,
        "run": header.run,
        **({"prior": header.prior} if header.prior else {}),
    }


def _to_text(numbers: Sequence[int]) -> str:
    return json.dumps(list(numbers), separators=(",", ":"))


def _from_metadata(layout: Layout, path: Path) -> CodesHeader:
    metadata = layout.metadata
    if metadata.get("format") != FORMAT:
        raise DamagedCodesError(f"its format is not {FORMAT}")
    try:
        version = int(metadata["version"])
        if version > VERSION:
            raise SqueezeError(
                f"{path} is of format version {version}, this squeeze reads up to {VERSION}: "
                "update squeeze."
            )
        code_sizes = tuple(int(size) for size in json.loads(metadata["code_sizes"]))
        rows, columns = (int(side) for side in json.loads(metadata["grid"]))
        header = CodesHeader(
            metadata["quantizer"], code_sizes, (rows, columns), metadata["coding"],
            metadata["run"], metadata.get("prior", ""),
        )  # fmt: skip
    except (KeyError, ValueError, TypeError):
        raise DamagedCodesError("its metadata are incomplete") from None
    if (
        header.coding not in CODINGS
        or not code_sizes
        or min(code_sizes) < 1
        or min(rows, columns) < 0
    ):
        raise DamagedCodesError("its metadata mean nothing")
    return header


def _read_index(file: Any, layout: Layout) -> dict[str, NDArray[Any]]:
    """The tensors before the payload, checked against the CRC-32."""
    if list(layout.tensors) != ["crc32", "lengths", "names", "payload"]:
        raise DamagedCodesError("its tensors are not those of a codes file")
    at = len(layout.prefix)
    arrays: dict[str, NDArray[Any]] = {}
    for name, (dtype, shape, begin, end) in layout.tensors.items():
        if begin != at or len(shape) != 1:
            raise DamagedCodesError("its tensors have gaps")
        at = end
        if name != "payload":
            arrays[name] = np.frombuffer(file.read(end - begin), dtype)
    index = arrays["lengths"].tobytes() + arrays["names"].tobytes()
    if arrays["crc32"].tobytes() != zlib.crc32(layout.prefix + bytes(4) + index).to_bytes(
        4, "little"
    ):
        raise DamagedCodesError("its CRC-32 differs")
    return arrays
