"""Feature maps of another network: arrays in files, read row by row through memory maps."""

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from squeeze_cli.codec.shards import MANIFEST_NAME, ForeignManifestError, Output, read_output
from squeeze_cli.console import Advance
from squeeze_cli.data.array_files import FeatureArray, open_array
from squeeze_cli.data.encoded import ReadImage
from squeeze_cli.data.finding import files_below, names_below
from squeeze_cli.data.folder import split_by_file
from squeeze_cli.data.reading import hex_digest, read_lines, stamp_of
from squeeze_cli.data.samples import Sample
from squeeze_cli.data.sources import DataSource, Listing
from squeeze_cli.errors import SqueezeError, UsageError

FEATURE_SUFFIXES = (".npy", ".npz", ".safetensors")
# Maps that a thread checks at once, because single vectors take less time than starting a task.
AT_ONCE = 64
MapShape = tuple[int, int, int]  # rows, columns and channels of a feature map


@dataclass(frozen=True)
class FeatureSample(Sample):
    """One feature map: a row of an array, or a file of its own where `array` is None."""

    path: Path
    array: FeatureArray | None = None
    row: int = 0
    channels_first: bool = False
    content: str = ""  # digest of the values, by `check_features`

    @property
    def place(self) -> str:
        """Name of file and row in messages."""
        return f"{self.path}" if self.array is None else f"row {self.row} of {self.path}"

    def digest(self) -> str:
        """Return the hex BLAKE2b-128 of the values as float32; they must have been checked."""
        assert self.content, f"{self.name} was not checked"
        return self.content

    def stamp(self) -> str:
        """Return size and modification time of the file."""
        return stamp_of(self.path)

    def fingerprint(self) -> str:
        """Read the values and return their digest, as `digest` does."""
        return hex_digest(self.features().numpy().data)

    def features(self) -> Tensor:
        """Return the feature map `[h, w, C]` float32; a single vector is a map of 1×1."""
        if self.array is None:
            values = open_array(self.path, dimensions=(1, 3)).read(slice(None))
        else:
            values = self.array.read(slice(self.row, self.row + 1))[0]
        if values.dim() == 1:
            values = values[None, None]
        return values.permute(1, 2, 0).contiguous() if self.channels_first else values

    def read(self) -> ReadImage:
        """Raise SqueezeError, because given features have no image."""
        raise SqueezeError(f"{self.name} has features, but no image: show images of another run.")


class FeatureSource(DataSource):
    """Given features, with splits by a split file, if there is one."""

    def listing(self) -> Listing:
        """List the feature maps; raises SqueezeError as `list_features` does."""
        found = list_features(str(self.config.features), self.config.feature_names)
        split_file = self.config.split_file
        return found if split_file is None else split_by_file(found, Path(split_file))


def list_features(place: Path | str, names_file: Path | str | None) -> Listing:
    """List the feature maps of a file, of a folder of files or of `squeeze extract-embeddings`.

    A file holds one array `[N, h, w, C]` or `[N, C]`; each file of a folder `[h, w, C]` or `[C]`.
    `names_file` has the names of an array's rows, one per line; without it the names are numbers. All
    samples are in `train`.

    Raises SqueezeError for a file that is missing or cannot be read.
    """
    path = Path(place)
    if path.is_file():
        array = open_array(path, dimensions=(2, 4))
        if path.suffix.lower() == ".safetensors" and _metadata_names(array) is not None:
            raise SqueezeError(
                f"{path} is a shard of squeeze, an array [N, C, h, w] with names: give its folder, or "
                "decode codes by --as npy."
            )
        names = _row_names(names_file and Path(names_file), path, array.shape[0])
        return Listing(tuple(FeatureSample(n, path, array, row) for row, n in enumerate(names)))
    if not path.is_dir():
        raise SqueezeError(f"There are no features {path}: give a file or a folder of features.")
    if names_file is not None:
        raise UsageError(
            f"--feature-names has no effect with the folder {path}, whose files have names: leave it out."
        )
    if (path / MANIFEST_NAME).exists():
        with suppress(ForeignManifestError):
            return Listing(tuple(_list_shards(path, read_output(path))))
    return _list_files(path)


def check_features(
    samples: Sequence[FeatureSample], advance: Advance
) -> tuple[MapShape, list[str]]:
    """Read all feature maps once, in threads; return their common shape and a digest of each map.

    `advance` is called with the number of maps read. Raises SqueezeError, with file and row, for a map
    of another shape than the first, and for values that are not finite.
    """
    ordered = sorted(samples, key=lambda sample: (str(sample.path), sample.row))
    blocks = [ordered[begin : begin + AT_ONCE] for begin in range(0, len(ordered), AT_ONCE)]
    digests: dict[FeatureSample, str] = {}
    first_of: dict[MapShape, FeatureSample] = {}
    with ThreadPoolExecutor() as pool:  # reading and hashing release the GIL
        for block, checked in zip(blocks, pool.map(_check_block, blocks), strict=True):
            for sample, (shape, digest) in zip(block, checked, strict=True):
                first_of.setdefault(shape, sample)
                if len(first_of) > 1:
                    shapes = [f"{each.place} is {shape_text(s)}" for s, each in first_of.items()]
                    raise SqueezeError(f"Features must have one shape: {', '.join(shapes)}.")
                digests[sample] = digest
            advance(len(block), "")
    wrong = [sample for sample, digest in digests.items() if not digest]
    if wrong:
        raise SqueezeError(
            f"{len(wrong)} of {len(samples)} feature maps hold values that are not finite, such as "
            f"{wrong[0].place}: repair or remove them."
        )
    (shape,) = first_of
    return shape, [digests[sample] for sample in samples]


def _check_block(block: Sequence[FeatureSample]) -> list[tuple[MapShape, str]]:
    """Return the shape of each map and a digest of its values, "" where one is not finite."""
    checked = []
    for values in (sample.features() for sample in block):
        rows, columns, channels = values.shape
        digest = hex_digest(values.numpy().data) if values.isfinite().all() else ""
        checked.append(((rows, columns, channels), digest))
    return checked


def shape_text(shape: Sequence[int]) -> str:
    """Return rows, columns and channels as text for a message."""
    return " x ".join(map(str, shape))


def _list_shards(folder: Path, output: Output) -> list[FeatureSample]:
    if output.content == "codes":
        raise SqueezeError(f"{folder} holds codes: decode them to features first.")
    if output.content != "features":
        raise SqueezeError(
            f"{folder} holds quantized embeddings, not features: extract with --format features."
        )
    if output.space != "backbone":
        raise SqueezeError(
            f"{folder} holds features after an adapter or a projection, not of a backbone: "
            "extract them with a run that has neither --add-adapter nor --feature-dim."
        )
    samples = []
    for shard in output.shards:
        array = open_array(shard.checked(), dimensions=(4,))
        names = _stored_names(array)
        shard.require_names(names)
        samples += [
            FeatureSample(name, shard.path, array, row, channels_first=True)
            for row, name in enumerate(names)
        ]
    return samples


def _stored_names(array: FeatureArray) -> list[str]:
    """Return the names in the metadata of a shard of features; SqueezeError unless one per row."""
    names = _metadata_names(array)
    if not isinstance(names, list) or len(names) != array.shape[0]:
        raise SqueezeError(f"{array.path} does not fit its record: extract it again.")
    return names


def _metadata_names(array: FeatureArray) -> object:
    """Return the names in the metadata of a .safetensors file, or None if it has none."""
    from safetensors import safe_open

    with safe_open(array.path, framework="np") as file, suppress(ValueError, RecursionError):
        return json.loads((file.metadata() or {}).get("names", ""))
    return None


def _list_files(folder: Path) -> Listing:
    below, warnings = files_below(folder)
    files = [
        path for path in below
        if path.suffix.lower() in FEATURE_SUFFIXES and (folder / path).is_file()
    ]  # fmt: skip
    if not files:
        raise SqueezeError(
            f"The folder {folder} holds no features: put some there ({', '.join(FEATURE_SUFFIXES)})."
        )
    names = names_below([file.as_posix() for file in files])
    samples = (FeatureSample(n, folder / p) for n, p in zip(names, files, strict=True))
    if others := len(below) - len(files):
        warnings.insert(0, f"Left out {others} files in {folder} that are not features.")
    return Listing(tuple(samples), warnings=tuple(warnings))


def _row_names(file: Path | str | None, path: Path, count: int) -> list[str]:
    if file is None:
        return [f"{row:0{len(str(count - 1))}d}" for row in range(count)]
    names = read_lines(file)
    if len(names) != count:
        raise SqueezeError(
            f"{file} has {len(names)} names and {path} {count} rows: give one name per line and row."
        )
    if "" in names:
        raise SqueezeError(f"{file}, line {names.index('') + 1} is empty: give each row a name.")
    name, uses = Counter(names).most_common(1)[0]
    if uses > 1:
        raise SqueezeError(
            f"{file} has the name {name!r} {uses} times: give each row its own name."
        )
    return names
