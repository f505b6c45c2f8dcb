"""The images below a folder, by name."""

from pathlib import Path

from squeeze_cli.data.finding import IMAGE_SUFFIXES, files_below
from squeeze_cli.data.reading import same_name


class NamedFiles:
    """The images below a folder by name; of images with the same stem, the usual `suffix` comes first."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.folder, self._suffix = folder, suffix
        below = files_below(folder)[0] if folder.is_dir() else []
        below = [path for path in below if path.suffix.lower() in IMAGE_SUFFIXES]
        below.sort(key=lambda path: (path.suffix != suffix, path.suffix.lower() != suffix, path))
        self._by_name = {same_name(path.as_posix()): path for path in below}
        self._by_stem: dict[str, Path] = {}
        for name, path in self._by_name.items():
            self._by_stem.setdefault(name.removesuffix(path.suffix), path)

    def find(self, name: str) -> tuple[str, Path] | None:
        """Return the name of a sample and its file for a `name` with or without suffix, or None.

        The name has no suffix, unless another file with the same stem is the usual one.
        """
        key = same_name(name)
        if key in self._by_stem:
            return key, self.folder / self._by_stem[key]
        stem, _, suffix = key.rpartition(".")
        if f".{suffix}".lower() not in IMAGE_SUFFIXES or stem not in self._by_stem:
            return None
        usual = self._by_stem[stem]
        path = self._by_name.get(key, usual)
        return stem if path == usual else key, self.folder / path

    def path(self, stem: str) -> Path:
        """Return the file with this stem, or the usual path of such a file if there is none."""
        found = self._by_stem.get(same_name(stem), f"{stem}{self._suffix}")
        return self.folder / found
