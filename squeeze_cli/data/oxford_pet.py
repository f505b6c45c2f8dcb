"""Oxford-IIIT Pet: 7,349 photographs of cats and dogs with their trimaps.

Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs, CVPR 2012;
https://www.robots.ox.ac.uk/~vgg/data/pets/ (CC BY-SA 4.0).
"""

from pathlib import Path

from squeeze_cli.data.drawn_pets import PET_CLASSES
from squeeze_cli.data.lists import ListedSource

SITE = "https://www.robots.ox.ac.uk/~vgg/data/pets/"
# The two archives with their MD5 sums.
ARCHIVES = (
    (f"{SITE}data/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
    (f"{SITE}data/annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f"),
)


class OxfordPetSource(ListedSource):
    """The photographs below `<data_dir>/oxford-iiit-pet`, in the layout of the archives.

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

    def __init__(self, data_dir: Path, download: bool = True) -> None:
        super().__init__(data_dir / "oxford-iiit-pet", download)
        annotations = self.folder / "annotations"
        self.images, self.masks = self.folder / "images", annotations / "trimaps"
        self.lists = annotations / "trainval.txt", annotations / "test.txt"
        self.archives = ARCHIVES
