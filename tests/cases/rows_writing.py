"""Cases of writing: inputs are never replaced, and places that cannot be written are one line."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.numpy import load_file, save_file

from tests.cases.stock import squeeze
from tests.cases.table import Case

DECODE = "decode codes --run runs/vq --to"
STOCK = ("codes", "runs/vq")


def _link_to_maps(folder: Path) -> None:
    """Link to the folder of the features, which are given as one file."""
    (folder / "link").symlink_to(folder / "features")
    file = folder / "features" / "features-00000.safetensors"
    save_file({"maps": load_file(file)["embeddings"].transpose(0, 2, 3, 1).copy()}, file)


ROWS = (
    Case(
        "decode over a link to its own codes",
        "decode link/codes-00000.sqz --run runs/vq --to features --out codes --overwrite",
        2,
        ("choose another --out",),
        uses=STOCK,
        make=lambda folder: (folder / "link").symlink_to(folder / "codes"),
    ),
    Case(
        "decode over its own codes by a link",
        f"{DECODE} features --out link --overwrite",
        2,
        ("choose another --out",),
        uses=STOCK,
        make=lambda folder: (folder / "link").symlink_to(folder / "codes"),
    ),
    Case(
        "decode one file over the folder around it",
        "decode codes/codes-00000.sqz --run runs/vq --to features --out codes/../codes --overwrite",
        2,
        ("choose another --out",),
        uses=STOCK,
    ),
    Case(
        "decode into the folder above the codes",
        f"{DECODE} features --out . --overwrite",
        2,
        ("holds other files: choose another --out",),
        uses=STOCK,
    ),
    Case(
        "decode into the run's folder",
        f"{DECODE} features --out runs/vq --overwrite",
        2,
        ("holds other files: choose another --out",),
        uses=STOCK,
        writes=(),
    ),
    Case(
        "decode masks over the person's own masks",
        f"{DECODE} masks --out masks --overwrite",
        2,
        ("was not written by `squeeze decode`", "choose another --out"),
        uses=(*STOCK, "masks"),
    ),
    Case(
        "decode masks over the person's own masks without --overwrite",
        f"{DECODE} masks --out masks",
        2,
        ("exists: choose another --out",),
        uses=(*STOCK, "masks"),
    ),
    Case(
        "extract over the given features",
        "extract-embeddings runs/vq --features features --format features --out features "
        "--overwrite",
        2,
        ("holds the features that are given: choose another --out",),
        uses=("features", "runs/vq"),
    ),
    Case(
        "extract over the given features by a link",
        "extract-embeddings runs/vq --features features/features-00000.safetensors --out link "
        "--overwrite",
        2,
        ("holds the features that are given: choose another --out",),
        uses=("features", "runs/vq"),
        make=_link_to_maps,
    ),
    Case(
        "extract into the folder of the images",
        "extract-embeddings runs/vq --images images --out images --overwrite",
        2,
        ("holds other files: choose another --out",),
        uses=("images", "runs/vq"),
    ),
    Case(
        "extract into the folder above the images",
        "extract-embeddings runs/vq --images images --out . --overwrite",
        2,
        ("holds other files: choose another --out",),
        uses=("images", "runs/vq"),
    ),
    Case(
        "extract into the run's codes",
        "extract-embeddings runs/vq --images images --out runs/vq/codes --overwrite",
        2,
        ("holds other files: choose another --out",),
        uses=("images", "runs/vq"),
        writes=(),
    ),
    Case(
        "show onto a mask",
        "show runs/vq --out pets/oxford-iiit-pet/annotations/trimaps/Bengal_1.png",
        2,
        ("is an image or a mask of the run: name another file",),
        uses=("pets", "runs/vq"),
    ),
    Case(
        "show onto a photograph by a hard link",
        "show runs/vq --out link.png",
        2,
        ("is an image or a mask of the run: name another file",),
        uses=("pets", "runs/vq"),
        make=lambda folder: (folder / "link.png").hardlink_to(
            folder / "pets" / "oxford-iiit-pet" / "images" / "Bengal_1.jpg"
        ),
    ),
    *(
        Case(
            f"{option} onto a run's {name}",
            f"compare runs {option} {name}",
            2,
            ("is a file of a run: name another file",),
            uses=("runs/vq",),
            writes=(),
            make=make,
        )
        for option, name, make in (
            ("--csv", "runs/vq/run.json", None),
            ("--markdown", "runs/vq/config.yaml", None),
            ("--csv", "runs/vq/checkpoints/best.ckpt", None),
            ("--csv", "soft.csv", lambda f: (f / "soft.csv").symlink_to(f / "runs/vq/run.json")),
            ("--csv", "hard.csv", lambda f: (f / "hard.csv").hardlink_to(f / "runs/vq/run.json")),
        )
    ),
    *(
        Case(
            f"compare {option} onto a person's own {name}",
            f"compare runs {option} {name}",
            2,
            ("was not written by this command: name another file",),
            uses=("runs/vq", "images", "masks"),
            make=lambda folder: (folder / "classes.yaml").write_text("0: mine"),
        )
        for option, name in (
            ("--csv", "images/photo_1.jpg"),
            ("--markdown", "classes.yaml"),
            ("--plot", "masks/photo_1.png"),
        )
    ),
    *(
        Case(
            f"compare {option} onto a person's own file of the same kind, {name}",
            f"compare runs {option} {name}",
            2,
            ("was not written by this command: name another file",),
            uses=("runs/vq",),
            make=lambda folder, name=name, content=content: (folder / name).write_bytes(content),
        )
        for option, name, content in (
            ("--csv", "people.csv", b"name,age\nTom,3\n"),
            ("--markdown", "notes.md", b"| run | wind |\n| --- | --- |\n| 5 km | 3 |\n"),
            ("--plot", "mine.png", b"\x89PNG\r\n\x1a\n tEXtSoftware\0Matplotlib version3.8"),
            ("--plot", "mine.svg", b"<svg><!-- Matplotlib v3.8, https://matplotlib.org/ --></svg>"),
        )
    ),
    Case(
        "show onto a photograph that the run does not use",
        "show runs/vq --out holiday.png --count 2",
        2,
        ("was not written by this command: name another file",),
        uses=("pets", "runs/vq"),
        make=lambda folder: (folder / "holiday.png").write_bytes(b"\x89PNG\r\n\x1a\n mine"),
    ),
    Case(
        "compare replaces its own outputs",
        "compare runs --csv a.csv --markdown a.md --plot a.png",
        uses=("runs/vq",),
        writes=("a.csv", "a.md", "a.png"),
        make=lambda folder: squeeze(
            folder, "compare runs --csv a.csv --markdown a.md --plot a.png"
        ),
    ),
    Case(
        "one file for two outputs",
        "compare runs --csv a.txt --markdown ./a.txt",
        2,
        ("--csv and --markdown name one file",),
        uses=("runs/vq",),
    ),
    Case(
        "decode masks over a person's own classes",
        f"{DECODE} masks --out out --overwrite",
        2,
        ("out/classes.yaml was not written by `squeeze decode`",),
        uses=STOCK,
        make=lambda folder: [
            (folder / "out").mkdir(),
            (folder / "out" / "classes.yaml").write_text("# mine\n0: a\n1: b\n"),
        ],
    ),
    Case(
        "decode masks over earlier ones",
        f"{DECODE} masks --out out --overwrite",
        uses=STOCK,
        writes=("out",),
        make=lambda folder: squeeze(folder, f"{DECODE} masks --out out"),
    ),
    *(
        Case(
            f"--csv {name}",
            f"compare runs --csv {name}",
            1,
            ("is not a regular file and is not replaced: name another file",),
            uses=("runs/vq",),
            make=make,
        )
        for name, make in (
            ("/dev/null", None),
            ("-", None),
            (".", None),
            ("pipe", lambda folder: os.mkfifo(folder / "pipe")),
            ("runs", None),
        )
    ),
    Case(
        "--csv /dev/stdout",
        "compare runs --csv /dev/stdout",
        1,
        ("is not a regular file and is not replaced: name another file",),
        uses=("runs/vq",),
        executable=True,
    ),
    Case(
        "a file where the folder of a file should be",
        "compare runs --csv file/runs.csv",
        1,
        ("Cannot write file/runs.csv (",),
        uses=("runs/vq",),
        make=lambda folder: (folder / "file").write_text("in the way"),
    ),
    Case(
        "a name that is too long",
        f"compare runs --csv {'n' * 300}",
        1,
        ("File name too long", "choose a shorter name"),
        uses=("runs/vq",),
    ),
    *(
        Case(
            f"a cache folder in {cache}",
            "train {T} --data-dir pets",
            1,
            ("--cache-dir",),
            uses=("pets",),
            env={"XDG_CACHE_HOME": cache},
        )
        for cache in ("/dev/null/cache", "/proc/cache")
    ),
    Case(
        "a run that was killed before its record",
        "train {T} --data-dir pets --name it",
        uses=("pets",),
        make=lambda folder: [
            (folder / "runs" / "it").mkdir(parents=True),
            (folder / "runs" / "it" / ".lock").touch(),
            (folder / "runs" / "it" / "config.yaml").write_text("half"),
            (folder / "runs" / "it" / ".squeeze-01234567.part").write_text("half"),
        ],
        check=lambda folder: (folder / "runs/it/codes/test.sqz").stat(),
    ),
    Case(
        "a run that is a link is not replaced",
        "train {T} --images images --name link --overwrite",
        2,
        ("runs/link is a link, and is not replaced: delete it",),
        uses=("images", "runs/vq"),
        make=lambda folder: (folder / "runs/link").symlink_to("vq"),
        writes=(),
    ),
    Case(
        "a run that is a link to nothing",
        "train {T} --images images --name link",
        2,
        ("runs/link is a link, and is not replaced: delete it",),
        uses=("images",),
        make=lambda folder: [
            (folder / "runs").mkdir(),
            (folder / "runs/link").symlink_to("nothing"),
        ],
    ),
    *(
        Case(
            f"a file for the folder of {command.split()[0]}, {command.split()[-1]}",
            f"{command} --out {out}",
            1,
            ("photo_0.jpg is not a folder: name another place",),
            uses=(*STOCK, "images"),
        )
        for command in (
            "decode codes --run runs/vq --to masks",
            "decode codes --run runs/vq --to features",
            "extract-embeddings runs/vq --images images",
        )
        for out in ("images/photo_0.jpg",)
    ),
    Case(
        "extract below a file",
        "extract-embeddings runs/vq --images images --out images/photo_0.jpg/a/b",
        1,
        ("images/photo_0.jpg is not a folder: name another place",),
        uses=("runs/vq", "images"),
    ),
    *(
        Case(
            f"a file for the data folder of {data}",
            f"train {{T}} --dataset {data} --data-dir images/photo_0.jpg",
            1,
            ("images/photo_0.jpg is not a folder: check --data-dir",),
            uses=("images",),
            silent_on=("unpacks",),
        )
        for data in ("oxford-pet", "voc")
    ),
    *(
        Case(
            f"a file for the cache of {command}",
            f"cache {command} --cache-dir images/photo_0.jpg",
            2,
            ("images/photo_0.jpg is not a folder: check --cache-dir",),
            uses=("images",),
        )
        for command in ("ls", "ls --json", "clear --yes")
    ),
    Case(
        "a link for the features of a space",
        "cache clear --yes --cache-dir c",
        1,
        ("Cannot remove", "remove a link by hand"),
        silent_on=("(None)",),
        uses=("images",),
        make=lambda folder: [
            (folder / "c/features").mkdir(parents=True),
            (folder / f"c/features/{'0' * 20}").symlink_to(folder / "images"),
        ],
    ),
    Case(
        "a folder whose name would colour the terminal",
        "extract-embeddings runs/vq --images images --out 'a\x1b[31mb'",
        says=(r"Folder a\x1b[31mb",),
        silent_on=("\x1b",),
        uses=("images", "runs/vq"),
    ),
)
