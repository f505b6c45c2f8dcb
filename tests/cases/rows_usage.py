"""Cases of the command line: values without meaning are usage errors, in one line, before torch."""

from __future__ import annotations

from tests.cases.table import Case

ROWS = (
    Case("no such command", "trian", 2, ("trian",)),
    Case("no such option", "train --quantiser vq", 2, ("--quantizer",)),
    Case(
        "zero epochs",
        "train {T} --epochs 0 --data-dir pets",
        2,
        ("--epochs",),
        uses=("pets",),
    ),
    Case("evaluate a run", "evaluate runs/vq", uses=("pets", "runs/vq")),
    Case(
        "decode over its own codes",
        "decode codes/codes-00000.safetensors --run runs/vq --to features --out codes --overwrite",
        2,
        ("choose another --out",),
        uses=("codes", "runs/vq"),
    ),
)
