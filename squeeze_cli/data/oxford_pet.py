"""Oxford-IIIT Pet: 7,349 photographs of cats and dogs with their trimaps.

Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs, CVPR 2012;
https://www.robots.ox.ac.uk/~vgg/data/pets/ (CC BY-SA 4.0).
"""

import re
from pathlib import Path
from typing import Self

from squeeze_cli.config.schema import DataConfig
from squeeze_cli.data.download import UNPACKING, describe_error, fetch
from squeeze_cli.data.drawn_pets import PET_CLASSES
from squeeze_cli.data.samples import FileSample
from squeeze_cli.data.sources import DataSource, Listing
from squeeze_cli.errors import SqueezeError

SITE = "https://www.robots.ox.ac.uk/~vgg/data/pets/"
# The two archives with their MD5 sums.
ARCHIVES = (
    (f"{SITE}data/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
    (f"{SITE}data/annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f"),
)
SPLITS = ("trainval", "test")


class OxfordPetSource(DataSource):
    """The photographs below `<data_dir>/oxford-iiit-pet`, in the layout of the archives.

    Missing data are downloaded (about 800 MB), unless `download` is False.
    """

    classes = PET_CLASSES
    stray_share = 0.01  # some trimaps have single pixels of other values
    fix = (
        "Correct the masks, or train on other classes by --dataset folder --images DIR --masks DIR."
    )

    def __init__(self, data_dir: Path, download: bool = True) -> None:
        self.folder = data_dir / "oxford-iiit-pet"
        self.download = download

    @classmethod
    def of(cls, config: DataConfig) -> Self:
        """Return the source in the data folder."""
        return cls(Path(config.data_dir))

    def listing(self) -> Listing:
        """List the official splits; the seed draws the validation images from trainval."""
        return Listing(tuple(self.samples("trainval")), test=tuple(self.samples("test")))

    def samples(self, split: str) -> list[FileSample]:
        """List a split, 'trainval' or 'test', in the order of its list file.

        A listed file may be missing or broken. Raises SqueezeError if the data are incomplete and
        cannot be downloaded, or if a list file cannot be read.
        """
        if self.download and not self._is_complete():
            fetch(self.folder, ARCHIVES, self._is_complete, self._missing_message)
        if not self._is_complete():
            raise SqueezeError(self._missing_message())
        return self._listed(split)

    def _listed(self, split: str) -> list[FileSample]:
        images, annotations = self.folder / "images", self.folder / "annotations"
        upper = {path.stem for path in images.glob("*.JPG")}
        return [
            FileSample(
                name,
                images / (f"{name}.JPG" if name in upper else f"{name}.jpg"),
                annotations / "trimaps" / f"{name}.png",
            )
            for name in read_list(annotations / f"{split}.txt")
        ]

    def _is_complete(self) -> bool:
        """Whether both lists are there, each with at least one of its images and of its trimaps."""
        lists = [self.folder / "annotations" / f"{split}.txt" for split in SPLITS]
        if (self.folder / UNPACKING).exists() or not all(path.is_file() for path in lists):
            return False
        return all(
            any(sample.image_path.is_file() for sample in samples)
            and any(sample.mask_path and sample.mask_path.is_file() for sample in samples)
            for samples in map(self._listed, SPLITS)
        )

    def _missing_message(self, error: BaseException | None = None) -> str:
        return (
            f"The Oxford-IIIT Pet data are not in {self.folder}{describe_error(error)}: put "
            f"images.tar.gz and annotations.tar.gz from {SITE} there (the next run unpacks them), "
            "or use --dataset synthetic, which needs no data."
        )


def read_list(path: Path) -> list[str]:
    """Read the names in a list file: one per line, alone or as 'name class species breed'.

    Blank lines, lines that begin with `#`, a byte-order mark and a suffix `.jpg` are ignored.
    Raises SqueezeError for a malformed line, no name at all, or a file that is not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SqueezeError(
            f"Cannot read {path} ({error}): make it a readable file of UTF-8 text."
        ) from None
    names = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) not in (1, 4) or not all(field.isdecimal() for field in fields[1:]):
            raise SqueezeError(
                f"{path}, line {number}: {line.strip()[:60]!r} is neither a name nor 'name class "
                "species breed': correct or remove the line."
            )
        names.append(re.sub(r"\.jpg$", "", fields[0], flags=re.IGNORECASE))
    if not names:
        raise SqueezeError(f"{path} names no image: add names of images, one per line.")
    return names
