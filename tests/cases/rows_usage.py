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
        "decode codes/codes-00000.sqz --run runs/vq --to features --out codes --overwrite",
        2,
        ("choose another --out",),
        uses=("codes", "runs/vq"),
    ),
    Case("a baseline has no quantizer", "baseline --quantizer vq", 2, ("--quantizer",)),
    Case("a baseline of no whole epochs", "baseline --epochs nan", 2, ("--epochs",)),
    Case(
        "a baseline in the place of a run",
        "baseline {T} --data-dir pets --name vq",
        2,
        ("--overwrite",),
        uses=("pets", "runs/vq"),
        writes=(),
    ),
    Case("credentials to no such option", "clearml-init --nope", 2, ("--nope",)),
    Case("no data to look at", "doctor --data-dir nowhere --json", 0, ("nowhere",)),
    Case("no such backbone", "backbones zzzznothing", 2, ("No backbone matches",)),
    Case("nobody to ask", "cache clear", 2, ("--yes",)),
    Case("a cache that is not there", "cache ls --cache-dir nowhere", 0, ("No features",)),
    *(
        Case(
            f"{name} that is {value!r}",
            command,
            1,
            (f"The environment variable {name} is {value!r}, not a whole number: unset it.",),
            env={name: value},
        )
        for command, name, value in (
            ("train {T} --dry-run", "LOCAL_RANK", ""),
            ("train {T} --devices 2 --device cpu", "RANK", "q"),
            ("evaluate runs/vq", "WORLD_SIZE", "abc"),
            ("train {T} --devices 2 --device cpu", "MASTER_PORT", "-1"),
            ("train {T} --devices 2 --device cpu", "SLURM_NTASKS", "2x"),
            ("compare runs --plot p.svg", "SOURCE_DATE_EPOCH", "abc"),
        )
    ),
    Case("help beside a variable of no number", "train --help", env={"RANK": "q"}),
    Case(
        "figures beside an unknown backend",
        "show runs/vq --out p.png --count 2",
        uses=("pets", "runs/vq"),
        env={"MPLBACKEND": "junk"},
        executable=True,
        check=lambda folder: (folder / "p.png").stat(),
    ),
)
