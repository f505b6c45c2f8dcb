"""Cases of what `squeeze evaluate` measures besides the masks: nearest neighbours that are kept."""

from __future__ import annotations

from tests.cases.table import Case

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
    Case("no neighbours unasked", "evaluate runs/vq", silent_on=("neighbours",),
         uses=("pets", "runs/vq")),
)  # fmt: skip
