"""PASCAL VOC 2012: 2,913 photographs with masks of 20 kinds of objects and the background.

Everingham, Van Gool, Williams, Winn, Zisserman: The PASCAL Visual Object Classes (VOC) Challenge,
2010; http://host.robots.ox.ac.uk/pascal/VOC/voc2012/.
"""

from pathlib import Path

from torchvision.datasets.voc import DATASET_YEAR_DICT

from squeeze_cli.config.classes import ClassEntry, ClassTable, Colour
from squeeze_cli.data.lists import ListedSource

YEAR = "2012"
ARCHIVE = DATASET_YEAR_DICT[YEAR]
NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa",
    "train", "tv/monitor",
)  # fmt: skip


def colour_of(value: int) -> Colour:
    """Return VOC's colour of a value: bits 0, 1, 2 are the highest bits of R, G, B, and so on."""
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
    ignore=(255,),  # borders, and objects that are hard to recognize
)


class VOCSource(ListedSource):
    """The photographs below `<data_dir>/VOCdevkit/VOC2012`; VOC's val is the test split.

    The seed draws the validation images from VOC's train, as VOC's own test masks are not public.
    Missing data are downloaded (about 2 GB).
    """

    title = "PASCAL VOC 2012"
    classes = VOC_CLASSES
    fix = "Restore the files of the archive."

    def __init__(self, data_dir: Path, download: bool = True) -> None:
        super().__init__(data_dir, download)
        base = data_dir / ARCHIVE["base_dir"]
        self.images, self.masks = base / "JPEGImages", base / "SegmentationClass"
        lists = base / "ImageSets" / "Segmentation"
        self.lists = lists / "train.txt", lists / "val.txt"
        self.archives = [(ARCHIVE["url"], ARCHIVE["md5"])]
