"""A codes file: the codes of many images, each readable by itself; see docs/codes-format.md.

It is a safetensors file with the tensors `crc32`, `lengths`, `names` and `payload`. The safetensors
library reads it; squeeze writes the header, because the library's order of the metadata varies.
"""

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, Json
from safetensors import SafetensorError, safe_open

from squeeze_cli.codec.coding import Slots, decode_pieces, encode_pieces
from squeeze_cli.codec.prior import CodePrior, build_header, to_json
from squeeze_cli.errors import DamagedCodesError, SqueezeError

FORMAT = "squeeze-codes"
VERSION = 1
BATCH_IMAGES = 256
# Names are deflated without a header and a checksum of their own.
_RAW_DEFLATE = -15
_LONGEST_PREFIX = 255
# Bounds of what a file may claim: sizes far above those of any quantizer and image, texts that take
# a multiple of the file's own size, and codes that are decoded at once (1 GB).
_MOST_METADATA_CHARACTERS = 2**16
_MOST_NAME_BYTES = 2**27
_MOST_DECODED = 2**28
_TENSORS = {"crc32": "U32", "lengths": "U8 U16 U32", "names": "U8", "payload": "U8"}

NamedCodes = tuple[tuple[str, ...], NDArray[np.int32]]
_CodeSize = Annotated[int, Field(ge=1, lt=2**31, strict=True)]
_Rows = Annotated[int, Field(ge=0, le=2**14, strict=True)]


class CodesHeader(BaseModel, frozen=True):
    """Properties that all images of a codes file share, as they stand in its metadata.

    `run` and `prior` are digests; `run` may be empty, `prior` is that of the coding `prior`.
    """

    quantizer: str
    code_sizes: Json[Annotated[tuple[_CodeSize, ...], Field(min_length=1, max_length=1024)]]
    grid: Json[tuple[_Rows, _Rows]]
    coding: Literal["packed", "prior"]
    run: str
    prior: str = ""


def encode_codes(
    codes_nhwq: NDArray[np.integer], names: Sequence[str], *, quantizer: str,
    code_sizes: Sequence[int], run: str = "", prior: CodePrior | None = None,
    slots: Slots | None = None,
) -> bytes:  # fmt: skip
    """Encode the codes `[n, h, w, Q]` of n images into the bytes of a codes file.

    `encode_pieces` explains `prior` and `slots`, `CodesHeader` the other arguments. Raises
    ValueError if the arguments contradict each other.
    """
    n, rows, columns, q = codes_nhwq.shape
    if len(names) != n or len(code_sizes) != q:
        raise ValueError(f"codes of shape {codes_nhwq.shape}, {len(names)} names, {code_sizes}")
    pieces = encode_pieces(codes_nhwq, code_sizes, prior, slots)
    lengths = np.asarray([len(piece) for piece in pieces], np.int64)
    smallest = np.min_scalar_type(lengths.max(initial=0)).newbyteorder("<")
    arrays: dict[str, NDArray[np.integer]] = {
        "crc32": np.zeros(1, "<u4"),
        "lengths": lengths.astype(smallest),
        "names": np.frombuffer(compress_names(names), np.uint8),
        "payload": np.frombuffer(b"".join(pieces), np.uint8),
    }
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "quantizer": quantizer,
        "code_sizes": to_json(list(code_sizes)),
        "grid": to_json([rows, columns]),
        "coding": "packed" if prior is None else "prior",
        "run": run,
        **({} if prior is None else {"prior": prior.digest}),
    }
    *index, payload = (array.tobytes() for array in arrays.values())
    head = build_header(metadata, arrays)
    crc32 = zlib.crc32(b"".join((head, *index)))
    return b"".join((head, crc32.to_bytes(4, "little"), *index[1:], payload))


class CodesFile:
    """An open codes file: its header and names; the payload is read image by image.

    Opening the file checks all but the payload, whose pieces are checked when they are decoded.
    The coding `prior` needs the prior that made the file, which is in the run's folder.

    Raises:
        SqueezeError: there is no such file, it is of a newer version, or made by another prior.
        DamagedCodesError: the file is no codes file, truncated or changed.
    """

    def __init__(self, path: Path, prior: CodePrior | None = None) -> None:
        self.path = path
        self._prior = prior
        try:
            self._read_index()
        except DamagedCodesError as error:
            raise self._damaged(str(error)) from None
        except SafetensorError:
            raise self._damaged("it is truncated, changed or longer than it says") from None
        except OSError as error:
            raise SqueezeError(f"{path} cannot be read: {error.strerror or error}.") from None
        if self.header.coding == "packed":
            self._prior = None
        elif prior is not None and self.header.prior != prior.digest:
            raise SqueezeError(
                f"{path} was coded by another prior ({self.header.prior}, not {prior.digest}): give "
                "the run that made it."
            )

    def _read_index(self) -> None:
        """Read all but the payload, and compare it with its CRC-32."""
        with self.path.open("rb") as raw, safe_open(self.path, framework="numpy") as file:
            self.header = _read_header(file.metadata() or {}, self.path)
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            types = [_TENSORS.get(name, "").split() for name in slices]
            known = [p.get_dtype() in t for p, t in zip(slices.values(), types, strict=True)]
            if len(slices) != len(_TENSORS) or not all(known):
                raise DamagedCodesError("its tensors are not those of a codes file")
            lengths, names = file.get_tensor("lengths"), file.get_tensor("names").tobytes()
            stored = file.get_tensor("crc32").tobytes()
            self._payload = slices["payload"]
            (payload_bytes,) = self._payload.get_shape()
            # The library has checked that the tensors fill the file to its end.
            head = raw.read(os.fstat(raw.fileno()).st_size - payload_bytes)
        index = lengths.tobytes() + names
        head = head[: len(head) - len(stored + index)]
        if zlib.crc32(head + bytes(4) + index).to_bytes(4, "little") != stored:
            raise DamagedCodesError("its CRC-32 differs")
        self.names = decompress_names(names, len(lengths))
        if "" in self.names or len(set(self.names)) < len(self.names):
            raise DamagedCodesError("a name is empty or stands there twice")
        self._ends = np.cumsum(lengths, dtype=np.int64)
        self._begins = self._ends - lengths
        if lengths.sum(dtype=np.int64) != payload_bytes:
            raise DamagedCodesError("the lengths do not add up to the payload")

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
        """Return this file; raises SqueezeError for a name by which a mask would leave its folder."""
        for name in self.names:
            if name[0] == "/" or {"", ".", ".."} & set(name.split("/")):
                raise SqueezeError(f"{self.path}: the mask of {name!r} would leave its folder.")
        return self

    def read(self, positions: Sequence[int] | slice = slice(None)) -> NDArray[np.int32]:
        """Return the codes `[n, h, w, Q]` of the images at these positions, and read only them.

        Raises DamagedCodesError if the bytes are not those that were written.
        """
        if self.header.coding == "prior" and self._prior is None:
            raise SqueezeError(f"{self.path} is coded by a prior: give the run that made it.")
        begins, ends = self._begins[positions].tolist(), self._ends[positions].tolist()
        if len(begins) * prod(self.header.grid) * len(self.header.code_sizes) > _MOST_DECODED:
            raise SqueezeError(f"{self.path} has too many codes for memory: read fewer images.")
        pieces = [self._payload[b:e].tobytes() for b, e in zip(begins, ends, strict=True)]
        try:
            return decode_pieces(pieces, self.header.grid, self.header.code_sizes, self._prior)
        except DamagedCodesError as error:
            raise self._damaged(str(error)) from None

    def batches(self, images: int = BATCH_IMAGES) -> Iterator[NamedCodes]:
        """Give all images in order, in batches of (names, codes `[b, h, w, Q]`)."""
        for begin in range(0, len(self), images):
            part = slice(begin, begin + images)
            yield self.names[part], self.read(part)

    def _damaged(self, why: str) -> DamagedCodesError:
        return DamagedCodesError(
            f"{self.path} is damaged, or no codes file ({why}): make it again."
        )


def _read_header(metadata: dict[str, str], path: Path) -> CodesHeader:
    if metadata.get("format") != FORMAT:
        raise DamagedCodesError(f"its format is not {FORMAT}")
    version = metadata.get("version", "")
    if re.fullmatch("[1-9][0-9]{0,8}", version) and int(version) > VERSION:
        raise SqueezeError(f"{path} is of format version {version}: update squeeze.")
    try:
        if version != str(VERSION) or sum(map(len, metadata.values())) > _MOST_METADATA_CHARACTERS:
            raise ValueError
        return CodesHeader.model_validate(metadata)
    except ValueError:  # pydantic's ValidationError is one
        raise DamagedCodesError("its metadata are incomplete or invalid") from None


def compress_names(names: Sequence[str]) -> bytes:
    """Front-code and deflate names; raises ValueError if one holds a zero byte.

    A name becomes the number of first bytes that it shares with the last one, the others, a zero.
    """
    coded = bytearray()
    previous = b""
    for name in names:
        current = name.encode("utf-8", "surrogateescape")
        if 0 in current:
            raise ValueError(f"the name {name!r} holds a zero byte")
        limit = min(len(previous), len(current), _LONGEST_PREFIX)
        shared = next((i for i in range(limit) if previous[i] != current[i]), limit)
        coded.append(shared)
        coded += current[shared:] + b"\0"
        previous = current
    return zlib.compress(coded, 9, _RAW_DEFLATE)


def decompress_names(compressed: bytes, count: int) -> tuple[str, ...]:
    """Return `count` names that `compress_names` got; raises DamagedCodesError for others."""
    inflate = zlib.decompressobj(_RAW_DEFLATE)
    try:
        coded = inflate.decompress(compressed, _MOST_NAME_BYTES)
    except zlib.error as error:
        raise DamagedCodesError(f"the names cannot be inflated ({error})") from None
    names: list[str] = []
    previous, begin, size = b"", 0, 0
    while begin < len(coded) and len(names) <= count and size <= _MOST_NAME_BYTES:
        end = coded.find(b"\0", begin + 1)
        if end < 0 or coded[begin] > len(previous):
            raise DamagedCodesError("the names are cut off")
        previous = previous[: coded[begin]] + coded[begin + 1 : end]
        names.append(previous.decode("utf-8", "surrogateescape"))
        begin = end + 1
        size += len(previous)
    if len(names) != count or begin != len(coded) or not inflate.eof or inflate.unused_data:
        raise DamagedCodesError(f"there are {len(names)} names for {count} images")
    return tuple(names)
