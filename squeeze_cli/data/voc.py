"""PASCAL VOC 2012: 2,913 photographs with masks of 20 kinds of objects and the background.

Everingham, Van Gool, Williams, Winn, Zisserman: The PASCAL Visual Object Classes (VOC) Challenge,
2010; http://host.robots.ox.ac.uk/pascal/VOC/voc2012/.
"""

from pathlib import Path
from typing import Self

from torchvision.datasets import VOCSegmentation
from torchvision.datasets.voc import DATASET_YEAR_DICT

from squeeze_cli.config.classes import ClassEntry, ClassTable, Colour
from squeeze_cli.config.schema import DataConfig
from squeeze_cli.data.download import UNPACKING, describe_error, fetch
from squeeze_cli.data.samples import FileSample
from squeeze_cli.data.sources import DataSource, Listing
from squeeze_cli.errors import SqueezeError

YEAR = "2012"
ARCHIVE = DATASET_YEAR_DICT[YEAR]
NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa",
    "train", "tv/monitor",
)  # fmt: skip


def colour_of(value: int) -> Colour:
    """Return VOC's colour of a value: its bits, three at a time, from the top of R, G and B down."""
    red, green, blue = (
        sum((value >> (3 * place + channel) & 1) << (7 - place) for place in range(3))
        for channel in range(3)
    )
    return red, green, blue


VOC_CLASSES = ClassTable(
    classes=tuple(
        ClassEntry(value=value, name=name, colour=colour_of(value))
        for value, name in enumerate(NAMES)
    ),
    ignore=(255,),  # borders, and objects that are hard to tell
)


class VOCSource(DataSource):
    """The photographs below `<data_dir>/VOCdevkit/VOC2012`; VOC's val is the test split.

    The seed draws the validation images from VOC's train, as VOC's own test masks are not public.
    Missing data are downloaded (about 2 GB).
    """

    classes = VOC_CLASSES
    fix = "Bring back the files of the archive."

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir

    @classmethod
    def of(cls, config: DataConfig) -> Self:
        """Return the source in the data folder."""
        return cls(Path(config.data_dir))

    def listing(self) -> Listing:
        """List VOC's train and val."""
        if not self._is_complete():
            archives = [(ARCHIVE["url"], ARCHIVE["md5"])]
            fetch(self.folder, archives, self._is_complete, self._missing_message)
        if not self._is_complete():
            raise SqueezeError(self._missing_message())
        return Listing(self._listed("train"), test=self._listed("val"))

    def _listed(self, image_set: str) -> tuple[FileSample, ...]:
        found = VOCSegmentation(self.folder, YEAR, image_set)
        return tuple(
            FileSample(Path(image).stem, Path(image), Path(mask))
            for image, mask in zip(found.images, found.masks, strict=True)
        )

    def _is_complete(self) -> bool:
        """Whether both lists are there, each with at least one of its images and of its masks."""
        lists = self.folder / ARCHIVE["base_dir"] / "ImageSets" / "Segmentation"
        if (self.folder / UNPACKING).exists():
            return False
        return all(
            (lists / f"{image_set}.txt").is_file()
            and any(
                sample.image_path.is_file() and sample.mask_path and sample.mask_path.is_file()
                for sample in self._listed(image_set)
            )
            for image_set in ("train", "val")
        )

    def _missing_message(self, error: BaseException | None = None) -> str:
        return (
            f"PASCAL VOC 2012 is not in {self.folder / ARCHIVE['base_dir']}{describe_error(error)}: put "
            f"{ARCHIVE['filename']} from {ARCHIVE['url']} into {self.folder} (the next run unpacks it)."
        )
