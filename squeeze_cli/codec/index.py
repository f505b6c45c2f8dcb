"""The index of a codes file: everything before its blocks; see docs/codes-format.md."""

import json
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, NamedTuple, Self

from pydantic import BaseModel, Field, StrictInt, StrictStr, TypeAdapter, model_validator

from squeeze_cli.codec.prior_files import to_json
from squeeze_cli.errors import DamagedCodesError, SqueezeError

MAGIC, VERSION = b"SQZC", 2
# Largest number of vectors in a block, unless a single image has more.
BLOCK_VECTORS = 4096
# Size of a CRC-32 and of the number before the index; size of everything before the index.
_NUMBER_BYTES = 4
START_BYTES = len(MAGIC) + 1 + _NUMBER_BYTES
_RAW_DEFLATE = -15
# Preset dictionary for deflate: parts of typical headers. A change needs a new version of the format.
DICTIONARY = (
    b'{"quantizer":"fsq","code_sizes":[256,256,256,256],"grid":[7,7],"coding":"packed","run":"\n'
    b'","prior":"","images_per_block":83,"names":["\n'
    b'{"quantizer":"vq","code_sizes":[512],"grid":[14,14],"coding":"prior","run":"'
)
# Limits on what a damaged file can make a reader allocate, far above any real index, quantizer and
# image.
_MOST_INDEX_BYTES = 2**26
MOST_NAME_BYTES = 2**27  # of a file together
_LONGEST_NUMBER = 15  # digits at the end of a name
_CodeSize = Annotated[int, Field(ge=1, lt=2**31, strict=True)]
_Rows = Annotated[int, Field(ge=0, le=2**14, strict=True)]
_LENGTHS = TypeAdapter(list[Annotated[int, Field(ge=0, strict=True)]])


class CodesHeader(BaseModel, frozen=True, extra="forbid"):
    """Properties of a codes file.

    `run` and `prior` are digests; `run` may be empty, and `prior` is so with the coding `packed`.
    `names` are the entries that `shorten_names` returns.
    """

    quantizer: str
    code_sizes: Annotated[tuple[_CodeSize, ...], Field(min_length=1, max_length=1024)]
    grid: tuple[_Rows, _Rows]
    coding: Literal["packed", "prior"]
    run: str
    prior: str = ""
    images_per_block: StrictInt
    names: tuple[StrictStr | StrictInt, ...]

    @model_validator(mode="after")
    def _check_block(self) -> Self:
        if not 1 <= self.images_per_block <= images_per_block(self.grid):
            raise ValueError("too many vectors in a block")
        return self

    @property
    def block_images(self) -> list[int]:
        """Number of images in each block."""
        full, rest = divmod(len(self.names), self.images_per_block)
        return [self.images_per_block] * full + [rest] * (rest > 0)


class CodesIndex(NamedTuple):
    """Content of the index: bytes and initial checksum of each block; the first starts at `begin`."""

    header: CodesHeader
    names: tuple[str, ...]
    lengths: Sequence[int]
    checksums: Sequence[int]
    begin: int


def images_per_block(grid: tuple[int, int]) -> int:
    """Return the largest number of images in a block, each with vectors on this grid."""
    return max(1, BLOCK_VECTORS // max(1, grid[0] * grid[1]))


def header_line(header: CodesHeader) -> bytes:
    """Return the header as a line of the index."""
    return to_json(header.model_dump()).encode() + b"\n"


def block_checksums(line: bytes, blocks: int) -> list[int]:
    """Return the initial checksum of each block, which the CRC-32 of its codes continues.

    It covers the header's line and the block's number, so that a block fits no other place or file.
    """
    checksum = zlib.crc32(line)
    return [zlib.crc32(number.to_bytes(4, "little"), checksum) for number in range(blocks)]


def encode_index(line: bytes, lengths: Sequence[int]) -> bytes:
    """Return all bytes of a file before its blocks, which have these lengths."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, _RAW_DEFLATE, zdict=DICTIONARY)
    index = deflate.compress(line + to_json(lengths).encode()) + deflate.flush()
    head = MAGIC + bytes([VERSION]) + len(index).to_bytes(_NUMBER_BYTES, "little") + index
    return head + zlib.crc32(head).to_bytes(_NUMBER_BYTES, "little")


def find_blocks(start: bytes) -> tuple[int, int]:
    """Return the offsets of the deflated index and of the first block, given the first `START_BYTES`."""
    size = int.from_bytes(start[START_BYTES - _NUMBER_BYTES : START_BYTES], "little")
    return START_BYTES, START_BYTES + size + _NUMBER_BYTES


def read_index(file: BinaryIO, path: Path) -> CodesIndex:
    """Read the index of the file at `path`, which begins with `MAGIC`.

    Raises DamagedCodesError if the index is damaged, and SqueezeError for a newer version.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(START_BYTES)
    version = start[len(MAGIC) :][:1]
    if version > bytes([VERSION]):
        raise SqueezeError(f"{path} is of format version {version[0]}: update squeeze.")
    begin, end = find_blocks(start)
    if version != bytes([VERSION]) or end > size:
        raise DamagedCodesError("it has no version, or is cut off")
    head, stored = start + file.read(end - begin - _NUMBER_BYTES), file.read(_NUMBER_BYTES)
    if zlib.crc32(head).to_bytes(_NUMBER_BYTES, "little") != stored:
        raise DamagedCodesError("its CRC-32 differs")
    header_json, _, lengths_json = inflate(head[begin:], DICTIONARY).partition(b"\n")
    try:
        header = CodesHeader.model_validate(json.loads(header_json.decode()))
        names = restore_names(header.names)
        lengths = _LENGTHS.validate_json(lengths_json)
    except (ValueError, RecursionError):  # pydantic's ValidationError is a ValueError
        raise DamagedCodesError("its header, names or lengths are incomplete or invalid") from None
    if len(lengths) != len(header.block_images) or sum(lengths) != size - end:
        raise DamagedCodesError("the lengths do not add up to the file")
    checksums = block_checksums(header_json + b"\n", len(lengths))
    return CodesIndex(header, names, lengths, checksums, end)


def inflate(compressed: bytes, dictionary: bytes = b"") -> bytes:
    """Decompress a stream of raw deflate; raises DamagedCodesError if it is damaged."""
    inflating = zlib.decompressobj(_RAW_DEFLATE, zdict=dictionary)
    try:
        content = inflating.decompress(compressed, _MOST_INDEX_BYTES)
    except zlib.error as error:
        raise DamagedCodesError(f"the names cannot be inflated ({error})") from None
    if not inflating.eof or inflating.unused_data:
        raise DamagedCodesError("the names are cut off, or longer than they say")
    return content


def shorten_names(names: Sequence[str]) -> list[str | int]:
    """Return an entry for each name; `restore_names` is the inverse.

    Most image files are numbered, so a name is often the previous one with a larger number. Its entry
    is then the difference of the numbers.
    """
    entries: list[str | int] = []
    previous = ""
    for name in names:
        step = int(_digits(name) or 0) - int(_digits(previous) or 0)
        entries.append(step if _increase(previous, step) == name else name)
        previous = name
    return entries


def restore_names(entries: Iterable[str | int]) -> tuple[str, ...]:
    """Return the names of these entries.

    Raises ValueError for names that are empty, equal, not valid UTF-8, or take too much memory.
    """
    names: list[str] = []
    size, previous = 0, ""
    for entry in entries:
        name = entry if isinstance(entry, str) else _increase(previous, entry)
        if not name or "\0" in name:
            raise ValueError("a name is empty, or contains a zero byte")
        size += len(name.encode())  # surrogates, for bytes that are not text, are a ValueError
        if size > MOST_NAME_BYTES:
            raise ValueError("the names are too long")
        names.append(name)
        previous = name
    if len(set(names)) < len(names):
        raise ValueError("a name occurs twice")
    return tuple(names)


def _increase(name: str, step: int) -> str | None:
    """Return the name with its number increased by `step`, or None if there is no such name."""
    digits = _digits(name)
    if not digits or int(digits) + step < 0:
        return None
    # A number that begins with a zero has a fixed width.
    width = len(digits) if digits[0] == "0" else 1
    return name[: -len(digits)] + str(int(digits) + step).zfill(width)


def _digits(name: str) -> str:
    """Return the digits at the end of a name, at most 15."""
    end = name[-_LONGEST_NUMBER:]
    return end[len(end.rstrip("0123456789")) :]
