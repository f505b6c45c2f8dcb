"""`squeeze decode`: codes back to features or masks."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from squeeze_cli.commands.output import make_reporter, print_json
from squeeze_cli.options import OUTPUT_FLAGS, TRAINING_FLAGS, takes

EXAMPLES = (
    "squeeze decode runs/vq-vit/codes/test.safetensors --to masks --out masks",
    "squeeze decode codes.safetensors --run runs/vq-vit --to features --out features",
)
_FLAGS = (
    *(
        replace(flag, text="Where to compute: auto, cpu, cuda, mps. [default: auto]")
        for flag in TRAINING_FLAGS
        if flag.target == "training.device"
    ),
    *OUTPUT_FLAGS,
)


@takes(_FLAGS)
def decode(
    file: Annotated[
        Path,
        typer.Argument(help="A codes file, or a folder of extracted codes.", show_default=False),
    ],
    content: Annotated[
        Literal["features", "masks"],
        typer.Option("--to", help="Embeddings, or predicted masks as PNG.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Folder to write to.", show_default=False),
    ],
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="RUN", show_default=False,
            help=r"The run that made the codes. \[default: the one in whose folder they lie]",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is in --out.")
    ] = False,
    **flags: Any,
) -> None:  # fmt: skip
    """Decode codes to embeddings or masks: no images, no backbone, only the run's folder."""
    reporter = make_reporter(flags)
    from squeeze_cli.inference.decode import decode_codes

    result = decode_codes(
        file, content, out, reporter,
        run=run, overwrite=overwrite, device=flags.get("training__device") or "auto",
    )  # fmt: skip
    if flags.get("json"):
        print_json(asdict(result))
    else:
        reporter.show(f"{result.content} of {result.images} images in {result.out}")
