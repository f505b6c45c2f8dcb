"""Cases of what `squeeze evaluate` measures besides the masks: neighbours kept, and linear probes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.cases.table import Case

NAMES = [
    *(f"Abyssinian_{number}" for number in range(1, 11)),
    *(f"Bengal_{n}" for n in range(1, 5)),
]
ROWS_OF_ALL = [f"{name},{'odd' if int(name.split('_')[1]) % 2 else 'even'}" for name in NAMES]
GOOD = "\n".join(ROWS_OF_ALL)
PROBE = "evaluate runs/vq --probe labels.csv"
# Of 14 images 10 are trained on or tested, and 2 labels are met in train.
DONE = ("Linear probe accuracy ", "(2 labels of 8 training images, 4 tested)")
DOUBTS = ("Warning", "Error")


def labels(content: str | bytes) -> Callable[[Path], object]:
    """Give a function that writes labels.csv."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / "labels.csv").write_bytes(data)


def probed(
    name: str,
    content: str | bytes,
    says: tuple[str, ...] = DONE,
    silent_on: tuple[str, ...] = DOUBTS,
) -> Case:
    """Give a row whose labels are read."""
    return Case(name, PROBE, 0, says, silent_on, uses=("pets", "runs/vq"), make=labels(content))


def refused(name: str, content: str | bytes, *says: str) -> Case:
    """Give a row that ends before anything is measured."""
    return Case(
        name, PROBE, 1, says, ("Linear probe", "mean IoU"), uses=("pets", "runs/vq"),
        make=labels(content), writes=(),
    )  # fmt: skip


READ = (
    probed("labels of all images", GOOD),
    probed("labels below a header", f"Name,LABEL\n{GOOD}\n"),
    probed("labels below another header, with suffixes", "file,breed\n" + GOOD.replace(",", ".JPG,")),
    probed("labels with a mark, blank lines, blanks and ends of Windows",
           b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n\r\n").replace(",", " , ").encode() + b"\r\n,\r\n"),
    probed("labels of any text", GOOD.replace("odd", '"\u732b, ""big"" 1"').replace("even", "0")),
    probed("paths that begin with ./", GOOD.replace("Abys", "./Abys")),
    probed("names of no image are counted", f"{GOOD}\nImage_1,odd\ncat.jpg,even\n",
           ("Warning: 2 names in labels.csv are not images of the run, such as Image_1.", *DONE), ()),
    probed("a first name of no image is no header", f"Abyssinian_99,odd\n{GOOD}",
           ("Warning: 1 names in labels.csv are not images of the run, such as Abyssinian_99.",), ()),
    probed("names that are there again", f"{GOOD}\nBengal_1.jpg,odd\nBengal_1,odd\n",
           ("Warning: 2 names in labels.csv are repeated, with the same label, such as Bengal_1.jpg.",
            *DONE), ()),
    probed("images without a label", "\n".join(ROWS_OF_ALL[:-1]) + "\nBengal_4,",
           ("Warning: 1 of 12 images have no label in labels.csv, such as Bengal_4.",
            "(2 labels of 8 training images, 3 tested)"), ()),
    probed("labels that train has not", GOOD.replace("Bengal_1,odd", "Bengal_1,new"),
           ("Warning: 1 images of test have labels that are not in train: they count as wrong.",
            *DONE), ()),
)  # fmt: skip
REFUSED = (
    refused("two labels for one image", f"{GOOD}\nBengal_1.jpg,even",
            "labels.csv gives Bengal_1 two labels, 'odd' and 'even': remove one."),
    refused("a single label", GOOD.replace("odd", "even"),
            "labels.csv has 1 labels for 8 images of train, and labels 4 of test: a probe needs two"),
    refused("no label in train", "Bengal_1,odd\nBengal_2,even\n",
            "labels.csv has 0 labels for 0 images of train, and labels 2 of test"),
    refused("no label in test", "\n".join(ROWS_OF_ALL[:10]), "and labels 0 of test"),
    refused("a label for each image", "\n".join(f"{name},{name}" for name in NAMES),
            "has 8 labels for 8 images of train"),
    refused("an empty file of labels", "", "has 0 labels for 0 images"),
    refused("a header alone", "name,label\n", "has 0 labels for 0 images"),
    refused("labels behind semicolons", GOOD.replace(",", ";"),
            "labels.csv, line 1 is not `name,label` (1 cells): correct it"),
    refused("a third column", f"{GOOD}\n\nBengal_1,odd,1", "labels.csv, line 16", "(3 cells)"),
    refused("a label without a name", f"{GOOD}\n,odd", "labels.csv, line 15", "(2 cells)"),
    refused("a quote that is not closed", GOOD.replace("Bengal_1,odd", 'Bengal_1,"odd'),
            "labels.csv, line 14 is not `name,label` (unexpected end of data)"),
    refused("labels in UTF-16", GOOD.encode("utf-16"), "Cannot read labels.csv (it is UTF-16"),
    refused("labels in Latin-1", GOOD.replace("odd", "n\u00e4").encode("latin-1"),
            "Cannot read labels.csv", "UTF-8 text"),
    refused("an image as labels", b"\xff\xd8\xff\xe0\0\x10JFIF", "Cannot read labels.csv"),
    refused("a cell without end", "a" * 200_000 + ",odd", "labels.csv, line 1", "field larger"),
    Case("no file of labels", PROBE, 1, ("Cannot read labels.csv",), uses=("pets", "runs/vq")),
    Case("a folder of labels", PROBE, 1, ("Cannot read labels.csv", "not a regular file"),
         uses=("pets", "runs/vq"), make=lambda folder: (folder / "labels.csv").mkdir()),
    Case("a probe of a baseline", "evaluate runs/base --probe labels.csv", 1,
         ("runs/base was trained without a quantizer, so it has no codes",),
         uses=("pets", "runs/base"), make=labels(GOOD), writes=()),
)  # fmt: skip
ROWS = (
    Case(
        "neighbours of four images",
        "evaluate runs/vq --neighbours",
        says=(
            "Warning: There are too few images to measure their 10 nearest neighbours: 12 are needed.",
            "10 nearest neighbours kept: images – %, patches ",
        ),
        silent_on=("patches –", "few patches"),
        uses=("pets", "runs/vq"),
    ),
    Case(
        "neighbours without a head",
        "evaluate runs/recon --neighbours --split val --json",
        says=("too few images", '"neighbours_images": null, "neighbours_patches": 0.'),
        uses=("images", "runs/recon"),
    ),
    Case(
        "neighbours of a baseline",
        "evaluate runs/base --neighbours",
        1,
        ("runs/base was trained without a quantizer, so it has no codes",),
        uses=("pets", "runs/base"),
        writes=(),
    ),
    Case("no neighbours unasked", "evaluate runs/vq", silent_on=("neighbours", "probe"),
         uses=("pets", "runs/vq")),
    *READ,
    *REFUSED,
)  # fmt: skip
