"""Reading of codes by position, from a folder of shards or from one codes file."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.codec.container import CodesFile
from squeeze_cli.codec.shards import ShardFile, digest, read_output
from squeeze_cli.errors import SqueezeError
from squeeze_cli.inference.trained_run import TrainedRun
from squeeze_cli.runs import RECORD_NAME

# Number of files for which the index, with the names of the images, is kept in memory.
OPEN_FILES = 1024
# Vectors that are decoded at once when a file is streamed or all codes fit the cache: many blocks take
# little more time than one, because the range decoder processes all of them position by position.
VECTORS_AT_ONCE = 2**18
# Default limit on the bytes of decoded codes in memory.
CACHE_BYTES = 2**28

Codes = NDArray[np.integer]


def list_shards(path: Path) -> list[ShardFile]:
    """Return the codes files at `path`, a folder or one file; raises SqueezeError for anything else."""
    if not path.exists():
        raise SqueezeError(f"There is no {path}: give a codes file or the folder of one.")
    if path.is_file():
        return [ShardFile(path, len(CodesFile(path)), path.stat().st_size, digest(path))]
    output = read_output(path)
    if output.content != "codes":
        raise SqueezeError(
            f"{path} holds {output.content}, not codes: give an output of `squeeze extract-embeddings "
            "--format codes`."
        )
    return output.shards


def find_run(path: Path) -> Path:
    """Return the run's folder that contains `path`; raises SqueezeError if there is none."""
    for parent in path.resolve().parents:
        if (parent / RECORD_NAME).exists():
            return parent
    raise SqueezeError(f"{path} is not in a run's folder: give the run that made it by --run.")


class CodesFolder:
    """Codes of the images of all shards, by position.

    It can be pickled; each process opens the run and the files by itself. A file is open only while it
    is read. Indices of up to `OPEN_FILES` files and `cache_bytes` of decoded codes are kept in memory,
    or few codes if all images are read `in_order`.

    Raises SqueezeError for a folder that is not complete, for a file that is damaged or of another run,
    and if no run is found.
    """

    def __init__(
        self, path: Path, run: Path | None = None, cache_bytes: int = CACHE_BYTES, *,
        in_order: bool = False, device: str = "cpu",
    ) -> None:  # fmt: skip
        self.path, self.device = path, device
        self.shards = list_shards(path)
        self.run_path = run or find_run(path)
        self.begins = np.cumsum([0, *(shard.images for shard in self.shards)])
        if not len(self):
            raise SqueezeError(f"{path} has no images: extract it again.")
        self._shape: tuple[int, ...] = ()
        self._checked: set[int] = set()
        header = self.file(0).header
        self._type = np.min_scalar_type(max(header.code_sizes) - 1)
        image_bytes = max(1, prod(self._shape) * self._type.itemsize)
        block = header.images_per_block
        blocks = VECTORS_AT_ONCE // max(1, block * prod(header.grid))
        all_fit = len(self) * image_bytes <= cache_bytes
        self._at_once = max(1, blocks) * block
        self._part = self._at_once if all_fit or in_order else block
        parts = max(1, cache_bytes // (image_bytes * block))
        self._parts_kept = 1 if in_order else None if all_fit else parts

    def __len__(self) -> int:
        return int(self.begins[-1])

    def __getstate__(self) -> dict[str, object]:
        opened = ("run", "names", "_files", "_parts")
        return {name: value for name, value in vars(self).items() if name not in opened}

    @cached_property
    def run(self) -> TrainedRun:
        """The run that made the codes, on the device."""
        run = TrainedRun(self.run_path, {"training.device": self.device})
        run.require_codes()
        return run

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all images; SqueezeError if one occurs twice."""
        names = [name for number in range(len(self.shards)) for name in self.file(number).names]
        if len(set(names)) < len(names):
            raise SqueezeError(f"{self.path} has an image twice: extract it again.")
        return tuple(names)

    def file(self, number: int) -> CodesFile:
        """Return the opened file of a shard."""
        return self._files(number)

    def place(self, position: int) -> tuple[int, int]:
        """Return the number of an image's shard, and the image's position in it."""
        shard = int(np.searchsorted(self.begins, position, side="right")) - 1
        return shard, position - int(self.begins[shard])

    def read(self, positions: Sequence[int]) -> Codes:
        """Return the codes `[n, h, w, Q]` of the images at these positions, for access in any order."""
        codes = np.empty((len(positions), *self._shape), self._type)
        for row in np.argsort(positions).tolist():  # so that each block is decoded once
            shard, image = self.place(positions[row])
            codes[row] = self._parts(shard, image // self._part)[image % self._part]
        return codes

    def stream(
        self, shard: int, images: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], Codes]]:
        """Yield positions and codes of images of a shard, at ascending positions, in pieces."""
        file, starts = self.file(shard), np.flatnonzero(np.diff(images // self._at_once)) + 1
        for piece in np.split(images, starts):
            yield piece, file.read(piece.tolist()).astype(self._type)

    @cached_property
    def _files(self) -> Callable[[int], CodesFile]:
        return lru_cache(OPEN_FILES)(self._open)

    @cached_property
    def _parts(self) -> Callable[[int, int], Codes]:
        return lru_cache(self._parts_kept)(self._decode)

    def _open(self, number: int) -> CodesFile:
        shard = self.shards[number]
        file = self.run.open(shard.path if number in self._checked else shard.checked())
        shard.require_names(file.names)
        shape = (*file.header.grid, len(file.header.code_sizes))
        if self._shape not in ((), shape):
            raise SqueezeError(f"{shard.path} has other levels than {self.path}: extract it again.")
        self._shape = shape
        self._checked.add(number)
        return file

    def _decode(self, number: int, part: int) -> Codes:
        images = slice(part * self._part, (part + 1) * self._part)
        return self.file(number).read(images).astype(self._type)
