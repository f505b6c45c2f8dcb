"""Codes in a program of your own, in a few lines.

from squeeze_cli.api import extract, open_run

extract("runs/vq", images="holiday", out="codes")      # images to a folder of codes files
run = open_run("runs/vq")                              # needs no backbone
for names, codes in run.open("codes/codes-00000.safetensors").batches():
    features = run.to_output(run.features(codes))      # [B, C, h, w]
    masks = run.masks(codes)                           # [B, H, W] uint8
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from squeeze_cli.console import Reporter
from squeeze_cli.inference.extract import Request, extract_embeddings
from squeeze_cli.inference.run_codec import RunCodec, load_codec
from squeeze_cli.training.devices import choose_device

__all__ = ["RunCodec", "extract", "open_run"]


def open_run(path: str | Path, device: str = "auto") -> RunCodec:
    """A finished run as a codec: `open`, `features`, `masks`, `encode`; see `RunCodec`."""
    return load_codec(Path(path), choose_device(device))


def extract(
    run: str | Path,
    *,
    images: str | Path | None = None,
    split: str | None = None,
    content: str = "codes",
    coding: str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    **flags: Any,
) -> dict[str, Any]:
    """`squeeze extract-embeddings` as a function; returns what its `--json` prints.

    Further keywords are configuration fields, such as `data__data_dir`.
    """
    request = Request(
        content, split or (None if images else "test"), Path(images) if images else None, coding,
        Path(out) if out else None, overwrite,
    )  # fmt: skip
    return extract_embeddings(Path(run), request, flags, Reporter(quiet=True))
