"""A codes file: the codes of many images in blocks; see docs/codes-format.md."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open

from squeeze_cli.codec.coding import decode_blocks, encode_blocks
from squeeze_cli.codec.index import (
    MAGIC,
    MOST_NAME_BYTES,
    CodesHeader,
    CodesIndex,
    block_checksums,
    encode_index,
    header_line,
    images_per_block,
    inflate,
    read_index,
    restore_names,
    shorten_names,
)
from squeeze_cli.codec.prior import Prior
from squeeze_cli.codec.range_coding import Slots
from squeeze_cli.errors import DamagedCodesError, SqueezeError

BATCH_IMAGES = 256
# Largest numbers of blocks and of codes that are decoded at once.
_BLOCKS_AT_ONCE = 256
_CODES_AT_ONCE = 2**25
# Largest number of codes that a caller may read at once (1 GB).
_MOST_DECODED = 2**28

_LIST = TypeAdapter(list[object])

NamedCodes = tuple[tuple[str, ...], NDArray[np.int32]]


def encode_codes(
    codes_nhwq: NDArray[np.integer], names: Sequence[str], *, quantizer: str,
    code_sizes: Sequence[int], run: str = "", prior: Prior | None = None,
    slots: Slots | None = None,
) -> bytes:  # fmt: skip
    """Encode the codes `[n, h, w, Q]` of n images into the bytes of a codes file.

    `encode_blocks` explains `prior` and `slots`, `CodesHeader` the other arguments. Raises
    ValueError if the arguments contradict each other, or `restore_names` refuses the names.
    """
    n, rows, columns, q = codes_nhwq.shape
    if len(names) != n or len(code_sizes) != q:
        raise ValueError(f"codes of shape {codes_nhwq.shape}, {len(names)} names, {code_sizes}")
    restore_names(names)
    header = CodesHeader(
        quantizer=quantizer, code_sizes=tuple(code_sizes), grid=(rows, columns),
        coding="packed" if prior is None else "prior", run=run,
        prior="" if prior is None else prior.digest,
        images_per_block=max(1, min(n, images_per_block((rows, columns)))),
        names=tuple(shorten_names(names)),
    )  # fmt: skip
    line = header_line(header)
    checksums = block_checksums(line, len(header.block_images))
    blocks = encode_blocks(codes_nhwq, code_sizes, header.block_images, checksums, prior, slots)
    return b"".join((encode_index(line, [len(block) for block in blocks]), *blocks))


class CodesFile:
    """A codes file with its header and names; codes are read block by block.

    Opening the file checks everything but the blocks, which are checked when they are decoded. A file
    of the coding `prior` needs the prior that it was encoded with, from the run's folder.

    Raises:
        SqueezeError: there is no such file, it is of a newer version, or made by another prior.
        DamagedCodesError: the file is not a codes file, or truncated or changed.
    """

    def __init__(self, path: Path, prior: Prior | None = None) -> None:
        self.path = path
        self._prior = prior
        with self._reported(), path.open("rb") as file:
            known = file.read(len(MAGIC)) == MAGIC
            self._index = read_index(file, path) if known else read_index_v1(path)
        self.header, self.names = self._index.header, self._index.names
        self._ends = np.cumsum(self._index.lengths, dtype=np.int64) + self._index.begin
        if self.header.coding == "packed":
            self._prior = None
        elif prior is not None and self.header.prior != prior.digest:
            raise SqueezeError(
                f"{path} was coded by another prior ({self.header.prior}, not {prior.digest}): give "
                "the run that made it."
            )

    def __len__(self) -> int:
        return len(self.names)

    def require_run(self, digest: str) -> Self:
        """Return this file; raises SqueezeError unless the run with this digest made it."""
        if self.header.run != digest:
            raise SqueezeError(
                f"{self.path} was made by another run ({self.header.run or 'unnamed'}, not "
                f"{digest}): give the run that made it, or one with the same checkpoint."
            )
        return self

    def require_relative_names(self) -> Self:
        """Return this file; raises SqueezeError if the name of a mask would lie outside its folder."""
        for name in self.names:
            if name[0] == "/" or {"", ".", ".."} & set(name.split("/")):
                raise SqueezeError(
                    f"{self.path}: the mask of {name!r} would leave its folder: decode --to features, or "
                    "extract the images anew under other names."
                )
        return self

    def read(self, positions: Sequence[int] | slice = slice(None)) -> NDArray[np.int32]:
        """Return the codes `[n, h, w, Q]` of the images at these positions; reads their blocks only.

        Raises DamagedCodesError if a block is damaged.
        """
        if self.header.coding == "prior" and self._prior is None:
            raise SqueezeError(f"{self.path} is coded by a prior: give the run that made it.")
        header = self.header
        images = np.arange(len(self))[positions]
        needed, places = np.unique(images // header.images_per_block, return_inverse=True)
        if len(needed) * self._codes_per_block > _MOST_DECODED:
            raise SqueezeError(f"{self.path} has too many codes for memory: read fewer images.")
        blocks, counts = [], header.block_images
        with self._reported():
            with self.path.open("rb") as file:
                for number in needed.tolist():
                    file.seek(int(self._ends[number]) - self._index.lengths[number])
                    blocks.append(file.read(self._index.lengths[number]))
            codes = decode_blocks(
                blocks, [counts[number] for number in needed],
                [self._index.checksums[number] for number in needed],
                header.grid, header.code_sizes, self._prior,
            )  # fmt: skip
        # All blocks before the last one have as many images.
        chosen: NDArray[np.int32] = codes[
            places * header.images_per_block + images % header.images_per_block
        ]
        return chosen

    def batches(self, images: int = BATCH_IMAGES) -> Iterator[NamedCodes]:
        """Yield all images in order, in batches of (names, codes `[b, h, w, Q]`), b at most `images`."""
        blocks = max(1, min(_BLOCKS_AT_ONCE, _CODES_AT_ONCE // max(1, self._codes_per_block)))
        step = blocks * self.header.images_per_block
        for first in range(0, len(self), step):
            codes = self.read(slice(first, first + step))
            for begin in range(0, len(codes), images):
                part = codes[begin : begin + images]
                yield self.names[first + begin :][: len(part)], part

    @property
    def _codes_per_block(self) -> int:
        header = self.header
        return header.images_per_block * prod(header.grid) * len(header.code_sizes)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Add the name of the file to errors of reading."""
        try:
            yield
        except DamagedCodesError as error:
            raise DamagedCodesError(
                f"{self.path} is damaged, or not a codes file ({error}): make it again."
            ) from None
        except OSError as error:
            raise SqueezeError(f"{self.path} cannot be read: {error.strerror or error}.") from None


def read_index_v1(path: Path) -> CodesIndex:
    """Read all but the payload of a file of version 1, in which each image is a block of its own.

    It is a safetensors file; the appendix of docs/codes-format.md describes it.

    Raises DamagedCodesError if the file is damaged or of another format.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - no mapping
            known = {"crc32": "U32", "names": "U8", "payload": "U8"}
            if types not in [{**known, "lengths": kind} for kind in ("U8", "U16", "U32")]:
                raise DamagedCodesError("its tensors are not those of a codes file")
            stored, lengths, names = map(file.get_tensor, ("crc32", "lengths", "names"))
            payload_bytes = prod(file.get_slice("payload").get_shape())
    except SafetensorError:
        raise DamagedCodesError("it is truncated, changed or longer than it says") from None
    if (metadata.get("format"), metadata.get("version")) != ("squeeze-codes", "1"):
        raise DamagedCodesError("its format is not squeeze-codes, version 1")
    # The library has checked that the tensors fill the file to its end.
    begin = path.stat().st_size - payload_bytes
    with path.open("rb") as raw:
        head = raw.read(begin)
    index = lengths.tobytes() + names.tobytes()
    checked = head[: begin - len(index) - 4] + bytes(4) + index
    if zlib.crc32(checked).to_bytes(4, "little") != stored.tobytes():
        raise DamagedCodesError("its CRC-32 differs")
    if lengths.ndim != 1 or sum(lengths.tolist()) != payload_bytes:
        raise DamagedCodesError("the lengths do not add up to the payload")
    try:
        header = CodesHeader.model_validate(
            {
                **{name: metadata[name] for name in ("quantizer", "coding", "run")},
                **{name: _LIST.validate_json(metadata[name]) for name in ("code_sizes", "grid")},
                "prior": metadata.get("prior", ""),
                "images_per_block": 1,
                "names": _decode_names(inflate(names.tobytes()), len(lengths)),
            }
        )
        read = restore_names(header.names)
    except (ValueError, KeyError):  # pydantic's ValidationError is a ValueError
        raise DamagedCodesError("its metadata or names are incomplete or invalid") from None
    return CodesIndex(header, read, lengths.tolist(), [0] * len(lengths), begin)


def _decode_names(coded: bytes, count: int) -> list[str]:
    """Decode the names; each begins with the number of bytes that it shares with the previous one."""
    names: list[bytes] = []
    begin = size = 0
    while begin < len(coded) and len(names) <= count and size <= MOST_NAME_BYTES:
        previous, end = names[-1] if names else b"", coded.find(b"\0", begin + 1)
        if end < 0 or coded[begin] > len(previous):
            raise ValueError("the names are cut off")
        names.append(previous[: coded[begin]] + coded[begin + 1 : end])
        begin = end + 1
        size += len(names[-1])
    if len(names) != count or begin != len(coded):
        raise ValueError(f"{len(names)} names for {count} images")
    return [name.decode() for name in names]
