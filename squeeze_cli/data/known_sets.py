"""Data sets of photographs that are known by name: Oxford-IIIT Pet and PASCAL VOC 2012.

Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs, CVPR 2012;
https://www.robots.ox.ac.uk/~vgg/data/pets/ (CC BY-SA 4.0).
Everingham, Van Gool, Williams, Winn, Zisserman: The PASCAL Visual Object Classes (VOC) Challenge,
2010; http://host.robots.ox.ac.uk/pascal/VOC/voc2012/.
"""

from pathlib import Path

from torchvision.datasets.voc import DATASET_YEAR_DICT

from squeeze_cli.config.classes import ClassEntry, ClassTable, Colour
from squeeze_cli.config.schema import DataConfig
from squeeze_cli.data.download import ListedSource

PET, BACKGROUND, BORDER = 1, 2, 3
# The classes of the trimaps of photographs and of drawn pets.
PET_CLASSES = ClassTable(
    classes=(
        ClassEntry(value=PET, name="pet", colour=(0, 114, 178)),
        ClassEntry(value=BACKGROUND, name="background", colour=(240, 240, 240)),
        ClassEntry(value=BORDER, name="border", colour=(230, 159, 0)),
    ), ignore=(255,),
)  # fmt: skip
SITE = "https://www.robots.ox.ac.uk/~vgg/data/pets/"
# The two archives with their MD5 sums.
ARCHIVES = (
    (f"{SITE}data/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
    (f"{SITE}data/annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f"),
)
VOC_ARCHIVE = DATASET_YEAR_DICT["2012"]
_VOC_NAMES = (
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
        for value, name in enumerate(_VOC_NAMES)
    ),
    ignore=(255,),  # borders, and objects that are hard to recognize
)


class OxfordPetSource(ListedSource):
    """The 7,349 photographs below `<data_dir>/oxford-iiit-pet`, in the layout of the archives.

    A line of a list is a name, or 'name class species breed'. Missing data are downloaded (about
    800 MB).
    """

    title = "Oxford-IIIT Pet"
    numbers = 3
    classes = PET_CLASSES
    stray_share = 0.01  # some trimaps have single pixels of other values
    fix = (
        "Correct the masks, or train on other classes by --dataset folder --images DIR --masks DIR."
    )
    alternative = "--dataset synthetic needs no data."

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        self.folder = Path(config.data_dir) / "oxford-iiit-pet"
        annotations = self.folder / "annotations"
        self.images, self.masks = self.folder / "images", annotations / "trimaps"
        self.lists = annotations / "trainval.txt", annotations / "test.txt"
        self.archives = ARCHIVES


class VOCSource(ListedSource):
    """The 2,913 photographs below `<data_dir>/VOCdevkit/VOC2012`; VOC's val is the test split.

    The seed draws the validation images from VOC's train, as VOC's own test masks are not public.
    Missing data are downloaded (about 2 GB).
    """

    title = "PASCAL VOC 2012"
    classes = VOC_CLASSES
    fix = "Restore the files of the archive."

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        self.folder = Path(config.data_dir)
        base = self.folder / VOC_ARCHIVE["base_dir"]
        self.images, self.masks = base / "JPEGImages", base / "SegmentationClass"
        lists = base / "ImageSets" / "Segmentation"
        self.lists = lists / "train.txt", lists / "val.txt"
        self.archives = [(VOC_ARCHIVE["url"], VOC_ARCHIVE["md5"])]
