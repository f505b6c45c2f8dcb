"""Cases of `--levels` and `--quantizer-dropout`, which are for runs of rvq with several levels."""

from __future__ import annotations

from tests.cases.table import Case

EXTRACT = "extract-embeddings runs/vq --images images --out c --levels"


def refused(name: str, command: str, *says: str, uses: tuple[str, ...] = ("runs/vq",)) -> Case:
    """Give a row that ends before torch is imported and before anything is written."""
    return Case(name, command, 2, says, uses=uses, writes=())


_NO_RVQ = ("--levels is for runs of rvq", "leave it out")
ROWS = (
    refused("levels of a run of vq", "evaluate runs/vq --levels 1", *_NO_RVQ),
    refused("levels of codes of vq", f"{EXTRACT} 1", *_NO_RVQ, uses=("runs/vq", "images")),
    refused(
        "levels of a run of fsq", "evaluate runs/recon --levels 1", *_NO_RVQ, uses=("runs/recon",)
    ),
    refused("levels of a baseline", "evaluate runs/base --levels 1", *_NO_RVQ, uses=("runs/base",)),
    refused("no level", "evaluate runs/vq --levels 0", "--levels"),
    refused("levels below zero", f"{EXTRACT} -1", "--levels"),
    refused("a level and a half", f"{EXTRACT} 1.5", "--levels"),
    refused("a huge number of levels", f"{EXTRACT} {'9' * 30}", "--levels"),
    refused(
        "levels of features", f"{EXTRACT} 1 --format features", "--levels is for --format codes"
    ),
    refused(
        "quantizer dropout of one level",
        "train {T} --quantizer rvq --num-quantizers 1 --quantizer-dropout",
        "--num-quantizers 2",
        uses=(),
    ),
    refused(
        "quantizer dropout of vq", "train {T} --quantizer vq --quantizer-dropout", "rvq", uses=()
    ),
)
