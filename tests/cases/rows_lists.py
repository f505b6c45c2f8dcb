"""Cases of lists: files that name the images of a split, as people write them."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

from tests.cases.table import Case
from tests.pets import noise_image

PETS = "pets/oxford-iiit-pet"
LISTS = f"{PETS}/annotations"
EVALUATE = "evaluate runs/vq --data-dir pets"
# The test has an image of another name than the run knows.
RENAMED = ("pets has other names or splits of images than runs/vq was trained with",)
FOLDER = "train {T} --images images --masks masks --split-file splits.txt"
RECONSTRUCT = "train {T} --images images --split-file splits.txt"
FOUR = "4 images, test"
VOC = "pets/VOCdevkit/VOC2012"


def list_of(content: str | bytes) -> Callable[[Path], object]:
    """Give a function that replaces test.txt."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / LISTS / "test.txt").write_bytes(data)


def official(change: Callable[[str], str]) -> Callable[[Path], object]:
    """Give a function that changes the text of test.txt."""

    def make(folder: Path) -> None:
        path = folder / LISTS / "test.txt"
        path.write_bytes(change(path.read_text()).encode())

    return make


def renamed(new: str, listed: str) -> Callable[[Path], object]:
    """Give a function that renames the image and mask of Bengal_1, and lists it as `listed`."""

    def make(folder: Path) -> None:
        images, masks = folder / PETS / "images", folder / LISTS / "trimaps"
        (images / "Bengal_1.jpg").rename(images / new)
        (masks / "Bengal_1.png").rename(masks / (new.rpartition(".")[0] + ".png"))
        (folder / LISTS / "test.txt").write_text(f"{listed}\nBengal_2\nBengal_3 1 1 1\nBengal_4\n")

    return make


def evaluated(
    name: str, make: Callable[[Path], object], says: tuple[str, ...] = (), of: str = FOUR
) -> Case:
    """Give a row whose list is read, so that all test images are measured."""
    silent_on = ("Skipped", "left out", "Left out", "listed", "delete") if says == RENAMED else ()
    return Case(
        name, EVALUATE, says=(of, *says), silent_on=silent_on if says else ("Warning", "delete"),
        uses=("pets", "runs/vq"), make=make,
    )  # fmt: skip


def refused(name: str, make: Callable[[Path], object], *says: str) -> Case:
    return Case(
        name, EVALUATE, 1, says, silent_on=("delete",), uses=("pets", "runs/vq"), make=make,
        writes=(),
    )  # fmt: skip


def split(
    name: str, lines: str | bytes, says: tuple[str, ...], code: int = 1, command: str = FOLDER,
    make: Callable[[Path], object] = Path.exists,
) -> Case:  # fmt: skip
    """Give a row with a split file."""
    data = lines.encode() if isinstance(lines, str) else lines
    return Case(
        name, command, code, says, uses=("images", "masks"),
        make=lambda folder: (make(folder), (folder / "splits.txt").write_bytes(data)),
    )  # fmt: skip


def called(*names: str) -> Callable[[Path], object]:
    """Give a function that adds images of these names, with masks."""

    def make(folder: Path) -> None:
        for number, name in enumerate(names):
            noise_image(47, 31, 50 + number).save(folder / "images" / f"{name}.jpg")
            shutil.copy(folder / "masks" / "photo_0.png", folder / "masks" / f"{name}.png")

    return make


def beside_train(folder: Path) -> None:
    for kind in ("images", "masks"):
        (folder / kind).rename(folder / "all")
        (folder / kind).mkdir()
        (folder / "all").rename(folder / kind / "train")
    shutil.copy(folder / "images/train/photo_0.jpg", folder / "images" / "test.jpg")
    shutil.copy(folder / "masks/train/photo_0.png", folder / "masks" / "test.png")


def check_splits(folder: Path, count: int) -> None:
    """A fifth is for the test, however the images are called."""
    data = json.loads((folder / "runs" / "x" / "run.json").read_text())["data"]
    splits = [data[f"{split}_images"] for split in ("train", "val", "test")]
    assert (sum(splits), splits[2]) == (count, round(count / 5))


def listed(split: str, numbers: range, form: str = "photo_{} {}") -> str:
    return "".join(form.format(number, split) + "\n" for number in numbers)


def beside(folder: Path) -> None:
    """List an image beside another of its stem and size; the mask is that of one of them."""
    images, path = folder / PETS / "images", folder / LISTS / "test.txt"
    noise_image(47, 31, 99).save(images / "Bengal_1.png")
    path.write_text(path.read_text() + "Bengal_1.png\n")


def without(path: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        gone = folder / PETS / path
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()

    return make


def write_voc(folder: Path, val: str) -> None:
    """Write VOC's layout with the files of pets/, and its list val.txt."""
    base, pets = folder / VOC, folder / PETS
    shutil.copytree(pets / "images", base / "JPEGImages")
    shutil.copytree(folder / LISTS / "trimaps", base / "SegmentationClass")
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"Abyssinian_{n}\n" for n in range(1, 11)))
    (lists / "val.txt").write_text(val)


def voc(name: str, val: str, *says: str, tested: int = 0) -> Case:
    """Give a row with VOC's lists; nothing is trained where no images are `tested`."""

    def check(folder: Path) -> None:
        record = json.loads((folder / "runs" / "voc" / "run.json").read_text())
        assert (record["data"]["test_images"], record["data"]["skipped_images"]) == (tested, 0)

    return Case(
        name, "train {T} --dataset voc --data-dir pets --name voc", 0 if tested else 1, says,
        uses=("pets",), make=lambda folder: write_voc(folder, val), check=check if tested else None,
    )  # fmt: skip


def link_test_to_train(folder: Path) -> None:
    """Move images/ and masks/ below train/, and make test/ a copy or a link of two of them."""
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        files = sorted((folder / kind).iterdir())
        for part in ("train", "test"):
            (folder / kind / part).mkdir()
        for file in files:
            file.rename(folder / kind / "train" / file.name)
        for number in (1, 2):
            target = folder / kind / "train" / f"photo_{number}.{suffix}"
            (folder / kind / "test" / f"linked_{number}.{suffix}").symlink_to(target)
        other = folder / kind / "train" / f"photo_3.{suffix}"
        shutil.copy(other, folder / kind / "test" / f"copied.{suffix}")


NFD = unicodedata.normalize("NFD", "Bengalé")
NFC = unicodedata.normalize("NFC", "Bengalé")

ROWS = (
    evaluated("blank last line", official(lambda text: text + "\n\n  \n")),
    evaluated("comments", official(lambda text: "#Image CLASS SPECIES\n # more\n" + text)),
    evaluated("names alone", official(lambda text: text.replace(" 1 1 1", ""))),
    evaluated("byte-order mark", official(lambda text: "\ufeff" + text)),
    evaluated("Windows line ends", official(lambda text: text.replace("\n", "\r\n"))),
    evaluated("old Macintosh line ends", official(lambda text: text.replace("\n", "\r"))),
    evaluated("tabs and trailing blanks", official(lambda text: text.replace(" ", "\t") + " \t")),
    evaluated("no end of the last line", official(str.strip)),
    evaluated("names with suffix", official(lambda text: text.replace(" 1 1 1", ".jpg"))),
    evaluated("names with ./", official(lambda text: text.replace("Bengal", "./Bengal"))),
    evaluated("upper-case suffix", renamed("Bengal_1.JPG", "Bengal_1")),
    evaluated("upper-case suffix in the list", renamed("Bengal_1.JPEG", "Bengal_1.JPEG 6 1 4")),
    evaluated("name with a space", renamed("Bengal 1.jpg", "Bengal 1"), RENAMED),
    evaluated("name with a space and numbers", renamed("Bengal 1.jpg", "Bengal 1 6 1 4"), RENAMED),
    evaluated("name that ends as a line does", renamed("B 6 1 4.jpg", "B 6 1 4"), RENAMED),
    evaluated(
        "two images of one stem", beside, ("Skipped Bengal_1.png", "Bengal_1.png.png is missing"),
    ),
    evaluated("name with a dot", renamed("Bengal.1.jpg", "Bengal.1 1 1 1"), RENAMED),
    evaluated("decomposed name on disk", renamed(f"{NFD}.jpg", NFC), RENAMED),
    evaluated("decomposed name in the list", renamed(f"{NFC}.jpg", NFD), RENAMED),
    evaluated(
        "each line twice", official(lambda text: text * 2),
        ("4 images are listed more than once; each counts once.",),
    ),
    evaluated(
        "a line twice in two spellings", official(lambda text: text + "./Bengal_2.jpg\n"),
        ("1 images are listed more than once",),
    ),
    evaluated(
        "an image in both lists", official(lambda text: text + "Abyssinian_1\n"),
        ("1 images are both in the test split and among those to train on", "for the test only"),
        of="5 images, test",
    ),
    evaluated(
        "the same list twice",
        lambda folder: shutil.copy(folder / LISTS / "trainval.txt", folder / LISTS / "test.txt"),
        ("10 images are both in the test split", "the seed draws another"), of="2 images, test",
    ),
    evaluated(
        "a listed image is missing", official(lambda text: text + "Bengal_9\n"),
        ("Skipped Bengal_9", "Bengal_9.png is missing"),
    ),
    evaluated("a name of 5,000 letters", official(lambda t: t + "x" * 5000), ("Skipped xxx",)),
    refused("UTF-16", list_of("Bengal_1\n".encode("utf-16")), "test.txt", "UTF-16", "UTF-8 text"),
    refused("UTF-16 without mark", list_of("Bengal_1\n".encode("utf-16-le")), "UTF-16"),
    refused("Latin-1", list_of("Bengal_1\nMäuschen\n".encode("latin-1")), "test.txt", "UTF-8"),
    refused("empty list", list_of(""), "test.txt names nothing"),
    refused("comments alone", list_of("# nothing\n"), "test.txt names nothing"),
    refused("no test.txt", without("annotations/test.txt"), "test.txt is missing"),
    refused("no trainval.txt", without("annotations/trainval.txt"), "trainval.txt is missing"),
    refused("no masks", without("annotations/trimaps"), "no file that", "trimaps/Abyssinian_1.png"),
    refused("half a line", official(lambda text: text + "Bengal_2 1\n"), "line 5: 'Bengal_2 1'"),
    refused("a sentence", official(lambda text: text + "no such image\n"), "test.txt, line 5"),
    refused("path out of the folder", list_of("Bengal_1\n../x\n"), "test.txt, line 2", "'../x'"),
    refused("absolute path", list_of("/etc/passwd\n"), "test.txt, line 1", "/etc/passwd"),
    refused("other names", list_of("cat\ndog\n"), "no file that", "images/cat.jpg"),
    Case(
        "lists are kept where images are missing", "evaluate runs/vq --data-dir pets", 1,
        ("is not complete",), uses=("pets", "runs/vq"), make=without("images"), writes=(),
    ),
    voc(
        "VOC: comments, blank lines, a line twice", "# val\n\nBengal_1 \r\nBengal_2.jpg\nBengal_1\n",
        "1 images are listed more than once", tested=2,
    ),
    voc(
        "VOC: val holds a part of train", "Bengal_1\nAbyssinian_1\n",
        "1 images are both in the test split", tested=2,
    ),
    voc("VOC: path out of the folder", "../x\n", "val.txt, line 1"),
    voc("VOC: empty list", "\n", "val.txt names nothing"),
    split(
        "split file as people write it",
        "\ufeff# images\r\n\r\n" + listed("train", range(6), "photo_{}.jpg\t{}")
        + listed("val", range(6, 9), "./photo_{} , {}") + listed("test", range(9, 12)),
        ("Test",), 0, RECONSTRUCT,
    ),
    split(
        "split file with a line twice",
        listed("train", range(6)) + listed("test", range(6, 12)) + "photo_0.jpg train\n",
        ("1 images are listed more than once",), 0, RECONSTRUCT,
    ),
    split(
        "split file with an image in two splits",
        listed("train", range(8)) + listed("test", range(7, 12)),
        ("splits.txt, line 9", "'photo_7' is in test here and in train in line 8"),
    ),
    split("split file: path out of the folder", "../photo_1 train\n", ("line 1", "no image")),
    split("split file: no such image", "photo_99 train\n", ("splits.txt, line 1", "no image")),
    split("split file: no split", "photo_1\n", ("splits.txt, line 1", "train, val or test")),
    split("split file: other split", "photo_1 validation\n", ("line 1", "train, val or test")),
    split("split file: empty", "", ("splits.txt names nothing",)),
    split("split file: UTF-16", "photo_1 train\n".encode("utf-16"), ("splits.txt", "UTF-16")),
    Case(
        "images called train, val and test", "train {T} --images images --masks masks --name x",
        silent_on=("Warning",), uses=("images", "masks"), make=called("train", "val", "test"),
        check=lambda folder: check_splits(folder, 15),
    ),
    Case(
        "an image called test beside train/", "train {T} --images images --masks masks", 1,
        ("1 images outside of train/, val/ and test/: test:",), uses=("images", "masks"),
        make=beside_train,
    ),
    split(
        "split file with names in both forms of Unicode",
        listed("train", range(8)) + "\u00e9 val\ne\u0301 test\n", ("4 images are not listed",), 0,
        RECONSTRUCT, make=called("\u00e9", "e\u0301"),
    ),
    split(
        "split file with names that begin as comments and blank lines do",
        listed("train", range(8)) + "./#h val\n./ b test\n", ("4 images are not listed",), 0,
        RECONSTRUCT, make=called("#h", " b"),
    ),
    split(
        "split file without such a name", listed("train", range(8)) + "photo_9 test\n#h val\n",
        ("4 images are not listed", "write ./"), 0, RECONSTRUCT, make=called("#h"),
    ),
    Case(
        "links and copies of training images in test/", "train {T} --images images --masks masks",
        says=("2 images are both in the test split", "for the test only",
              "1 samples of test are copies of samples of train"),
        uses=("images", "masks"), make=link_test_to_train,
    ),
    Case(
        "the images themselves as --test-images",
        "train {T} --images images --masks masks --test-images images --test-masks masks",
        says=("12 images are both in the test split", "the seed draws another"),
        uses=("images", "masks"),
    ),
)  # fmt: skip
