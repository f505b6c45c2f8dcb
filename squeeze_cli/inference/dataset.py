"""PyTorch data sets of codes, code vectors or features from codes files, without images and backbone."""

import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate, get_worker_info

from squeeze_cli.errors import SqueezeError, UsageError, nearest
from squeeze_cli.inference.codes_folder import CACHE_BYTES, CodesFolder
from squeeze_cli.inference.evaluation import match_labels

Decode = Literal["codes", "vectors", "features"]
Labels = Mapping[str, object] | str | PathLike[str]
Item = Tensor | tuple[object, ...]
IndexedCodes = tuple[NDArray[np.int64], NDArray[np.integer]]
# Images that a stream of single items decodes at once.
STREAMED_AT_ONCE = 64


class CodesDataset(Dataset[Item]):
    """A map-style data set of the images in a folder of codes, or in one codes file.

    An item is a tensor: `codes` `[h, w, Q]` int32, `vectors`, the code vectors `[d, h, w]` float32 on
    the grid of the codes, or `features` `[C, h, w]` float32, equal to those of `squeeze decode` to the
    last bit. With labels or names an item is a tuple: the tensor, then the label, then the name.

    It can be pickled and used in forked or spawned workers of DataLoader; each process opens run and
    files by itself, on the CPU. A DataLoader decodes a batch at once.

    Args:
        path: A folder that `squeeze extract-embeddings` wrote, or a codes file.
        decode: `codes`, `vectors` or `features`.
        run: Folder of the run that made the codes; by default the one that contains `path`.
        labels: Label of each image by its name, or a CSV file with rows `name,label`. Images without a
            label are left out. Texts are replaced by their indices in `classes`.
        with_names: Whether items include the name of the image.
        transform: Function that is applied to the tensor of an item, or of a batch of `stream`.
        cache_bytes: Bytes of decoded codes that each process keeps. If all codes fit, each is decoded
            once; otherwise prefer `stream` to random access.

    Attributes:
        classes: All texts in `labels`, sorted, including those of unknown images.

    Raises:
        SqueezeError: The folder is not complete, a file is damaged or of another run, no run is found,
            or no image has a label.
        UsageError: `decode` is unknown, or only some of `labels` are texts.
    """

    def __init__(
        self, path: str | PathLike[str], decode: Decode = "features", *,
        run: str | PathLike[str] | None = None, labels: Labels | None = None,
        with_names: bool = False, transform: Callable[[Tensor], Tensor] | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:  # fmt: skip
        if decode not in get_args(Decode):
            raise UsageError(f"Unknown decode {decode!r}: {nearest(decode, get_args(Decode))}")
        self.folder = CodesFolder(Path(path), None if run is None else Path(run), cache_bytes)
        self.decode, self.with_names, self.transform = decode, with_names, transform
        self.classes: list[str] = []
        self.labels: list[object] | None = None
        self.positions = np.arange(len(self.folder))
        if labels is not None:
            self._join(labels)

    def __len__(self) -> int:
        return len(self.positions)

    def __getstate__(self) -> dict[str, object]:
        cached = ("names", "_indices")
        return {name: value for name, value in vars(self).items() if name not in cached}

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([operator.index(index)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return several items, which are decoded at once; DataLoader calls this for a batch."""
        chosen = [range(len(self))[index] for index in indices]  # also negative indices
        maps = list(self.tensors(self.folder.read(self.positions[chosen].tolist())))
        if self.transform is not None:
            maps = [self.transform(each) for each in maps]
        columns = self.columns(chosen)
        return list(zip(maps, *columns, strict=True)) if columns else list(maps)

    @cached_property
    def names(self) -> list[str]:
        """The names of the images of all items, in order."""
        return [self.folder.names[position] for position in self.positions]

    def index(self, name: str) -> int:
        """Return the index of the image with this name; SqueezeError if there is none."""
        if name not in self._indices:
            raise SqueezeError(f"{self.folder.path} has no image {name!r}, or it has no label.")
        return self._indices[name]

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    def stream(
        self, *, batch_size: int | None = None, shuffle_buffer: int = 0, seed: int = 0,
        rank: int | None = None, num_ranks: int | None = None, even: bool = False,
    ) -> "CodesStream":  # fmt: skip
        """Return an iterable data set of the same items, which reads one shard after another.

        Args:
            batch_size: Images per batch, which is decoded at once; None yields single items. If the
                stream yields batches, DataLoader needs `batch_size=None`.
            shuffle_buffer: Size of the buffer that images are drawn from at random; shards are in random
                order too. 0 keeps the order.
            seed: Seed of the order, together with the epoch.
            rank, num_ranks: Rank of this process in a training on several devices, and the number of
                ranks; by default those of torch.distributed.
            even: Whether to leave out a few images in each epoch, so that all workers and ranks have the
                same number of images and batches, as DistributedDataParallel needs.
        """
        return CodesStream(self, batch_size, shuffle_buffer, seed, rank, num_ranks, even)

    def tensors(self, codes_bhwq: NDArray[np.integer]) -> Tensor:
        """Return the tensor `[B, ...]` that codes are decoded to."""
        if self.decode == "codes":
            return torch.from_numpy(codes_bhwq.astype(np.int32))
        run = self.folder.run
        return run.decoded(codes_bhwq) if self.decode == "features" else run.vectors(codes_bhwq)

    def columns(self, indices: Sequence[int]) -> list[list[object]]:
        """Return labels and names of items, each a list, if items include them."""
        columns = [] if self.labels is None else [[self.labels[index] for index in indices]]
        if self.with_names:
            places = map(self.folder.place, self.positions[indices].tolist())
            columns.append([self.folder.file(shard).names[image] for shard, image in places])
        return columns

    def _join(self, labels: Labels) -> None:
        """Assign labels to items, and leave out items without a label."""
        names = self.folder.names
        place, known = "`labels`", set(names)
        if isinstance(labels, Mapping):
            found = {name: label for name, label in labels.items() if label is not None}
            texts = {label for label in found.values() if isinstance(label, str)}
            odd = [name for name, label in found.items() if not isinstance(label, str)]
            if texts and odd:
                raise UsageError(
                    f"`labels` are texts and other values, such as {found[odd[0]]!r} of {odd[0]}, which "
                    "might be the index of a text: make all of them texts, or none."
                )
            unknown = [name for name in labels if name not in known]
        else:
            place, matched = str(labels), match_labels(Path(labels), names)
            found, texts, unknown = dict(matched.labels), matched.texts, matched.unknown
        if known.isdisjoint(found):
            raise SqueezeError(
                f"No image of {self.folder.path} has a label in {place}: names are those of "
                f"codes files, such as {names[0]}."
            )
        missing = [name for name in names if name not in found]
        for which, what in (
            (missing, f"of {len(names)} images have no label in {place}, and are left out"),
            (unknown, f"names in {place} are of no image"),
        ):
            if which:
                warnings.warn(f"{len(which)} {what}, such as {which[0]}.", stacklevel=3)
        self.classes = sorted(texts)
        indices = {label: index for index, label in enumerate(self.classes)}
        self.positions = np.flatnonzero([name in found for name in names])
        chosen = (found[names[position]] for position in self.positions)
        self.labels = [indices[each] if isinstance(each, str) else each for each in chosen]


class CodesStream(IterableDataset[Item]):
    """An iterable data set of the items of a `CodesDataset`, made by its method `stream`.

    All workers and ranks together yield every image once per epoch. Their numbers of images differ by at
    most one, and with `even` they are equal. Memory holds the codes in the shuffle buffer and few images.

    Raises UsageError for invalid sizes and ranks.
    """

    def __init__(
        self, dataset: CodesDataset, batch_size: int | None, shuffle_buffer: int, seed: int,
        rank: int | None, num_ranks: int | None, even: bool,
    ) -> None:  # fmt: skip
        given = {"shuffle_buffer": shuffle_buffer, "seed": seed, "batch_size": batch_size}
        given |= {"rank": rank, "num_ranks": num_ranks}
        for name, value in given.items():
            least = 1 if name in ("batch_size", "num_ranks") else 0
            if value is not None and (not isinstance(value, Integral) or value < least):
                raise UsageError(f"{name} {value!r} is not a whole number from {least}.")
        if (rank is None) != (num_ranks is None) or (rank or 0) >= (num_ranks or 1):
            raise UsageError(f"rank {rank} of num_ranks {num_ranks}: give both, rank from 0.")
        self.dataset, self.batch_size, self.shuffle_buffer = dataset, batch_size, shuffle_buffer
        self.seed, self.even = seed, even
        self._rank = None if rank is None or num_ranks is None else (rank, num_ranks)
        # In shared memory, so that persistent workers see the next epoch.
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_rank": self.rank}  # spawned workers have no process group

    @property
    def rank(self) -> tuple[int, int]:
        """Rank of this process in a training on several devices, and the number of ranks."""
        given, group = self._rank, torch.distributed
        if given is None and group.is_available() and group.is_initialized():
            return group.get_rank(), group.get_world_size()
        return given or (0, 1)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which the order from the next iteration on depends, for all ranks alike.

        Raises UsageError for an epoch below 0.
        """
        if epoch < 0:
            raise UsageError(f"The epoch {epoch} is below 0: count from 0.")
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Item]:
        data = self.dataset
        for indices, codes in self._batches():
            maps, columns = data.tensors(codes), data.columns(indices.tolist())
            if self.batch_size is None:
                each = maps if data.transform is None else map(data.transform, maps)
                yield from zip(each, *columns, strict=True) if columns else each
            else:
                batch = maps if data.transform is None else data.transform(maps)
                yield (batch, *map(default_collate, columns)) if columns else batch

    def _batches(self) -> Iterator[IndexedCodes]:
        """Yield indices and codes of the items of this process in the order of this epoch."""
        worker = get_worker_info()
        part, parts = (0, 1) if worker is None else (worker.id, worker.num_workers)
        rank, ranks = self.rank
        part, parts = rank * parts + part, ranks * parts
        shards = np.arange(len(self.dataset.folder.shards))
        if self.shuffle_buffer:
            np.random.default_rng((self.seed, int(self._epoch))).shuffle(shards)
        generator = np.random.default_rng((self.seed, int(self._epoch), part))
        size = self.batch_size or STREAMED_AT_ONCE
        indices, codes = np.arange(0), self.dataset.folder.read([])
        for new_indices, new_codes in self._pieces(shards, part, parts):
            indices = np.concatenate([indices, new_indices])
            codes = np.concatenate([codes, new_codes])
            if self.shuffle_buffer:
                order = generator.permutation(len(indices))
                indices, codes = indices[order], codes[order]
            while len(indices) >= self.shuffle_buffer + size:
                yield indices[:size], codes[:size]
                indices, codes = indices[size:], codes[size:]
        for begin in range(0, len(indices), size):
            yield indices[begin : begin + size], codes[begin : begin + size]

    def _pieces(self, shards: NDArray[np.int64], part: int, parts: int) -> Iterator[IndexedCodes]:
        """Yield indices and codes of one of `parts` equal parts of the items, by the order of shards."""
        folder, positions = self.dataset.folder, self.dataset.positions
        bounds = np.searchsorted(positions, folder.begins)  # index of the first item of each shard
        count = len(positions) // parts * parts if self.even else len(positions)
        first, last = (count * each // parts for each in (part, part + 1))
        end = 0
        for shard in shards.tolist():
            begin, end = end, end + int(bounds[shard + 1] - bounds[shard])
            if (low := max(begin, first)) < (high := min(end, last)):
                index = int(bounds[shard]) + low - begin
                images = positions[index : index + high - low] - folder.begins[shard]
                for piece, codes in folder.stream(shard, images):
                    yield np.arange(index, index + len(piece)), codes
                    index += len(piece)
