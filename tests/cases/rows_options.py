"""Cases of options: values without meaning are usage errors before torch; output goes anywhere."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.cases.table import Case
from tests.conftest import EXECUTABLE

_DRY = "train --dry-run"
_NINES = "9" * 5000


def option(name: str, options: str, *says: str, command: str = _DRY) -> Case:
    """Return the case of options that are a usage error, which names the first of them."""
    return Case(name, f"{command} {options}", 2, says or (options.split()[0].split("=")[0],))


def on_run(options: str, *commands: str) -> tuple[Case, ...]:
    """Return the cases of a wrong option on a run that is not even looked for."""
    named = commands or ("evaluate", "show", "extract-embeddings")
    return tuple(option(f"{each} {options}", options, command=f"{each} nowhere") for each in named)


def shell(*lines: str) -> Callable[[Path], object]:
    """Make a check that runs each line in a shell; it must end with 0 and write no traceback."""

    def check(folder: Path) -> None:
        for line in lines:
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", line.replace("squeeze ", f"{EXECUTABLE} ")],
                cwd=folder, env={**os.environ, "COLUMNS": "80"}, stdin=subprocess.DEVNULL,
                capture_output=True, timeout=60, check=False,
            )  # fmt: skip
            output = (done.stdout + done.stderr).decode(errors="replace")
            assert done.returncode == 0, f"{line}: {done.returncode}\n{output}"
            assert "Traceback" not in output, output
            assert "Exception ignored" not in output, output

    return check


def one_json(folder: Path) -> None:
    """Check that stdout is one JSON value, also with an encoding that lacks its characters."""
    for encoding in ("utf-8", "ascii"):
        done = subprocess.run(
            [EXECUTABLE, "compare", "runs", "--json"], cwd=folder, capture_output=True, check=True,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )  # fmt: skip

        def refuse(number: str) -> None:
            raise AssertionError(number)

        rows = json.loads(done.stdout, parse_constant=refuse)["runs"]
        assert [row["name"] for row in rows] == ["ñandú–Δ"]


def without_reader(folder: Path) -> None:
    """Check that a command whose output nobody reads ends quietly, as one that SIGPIPE ends."""
    for arguments in (["compare", "runs"], ["compare", "runs", "--json"], ["train", "--dry-run"]):
        process = subprocess.Popen(
            [EXECUTABLE, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.close()
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (141, b""), arguments


_ENCODINGS = (
    {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp932"},
    {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
)  # fmt: skip

ROWS = (
    option("task codes without masks", "--codes task --images photos", "--codes task needs masks"),
    option("task codes of features", "--codes task --features f.npy", "--codes task needs masks"),
    option("codes of no quantizer", "--codes plain --quantizer none", "--codes has no effect"),
    option("codes of another kind", "--codes tiny"),
    option("a million codebooks", "--num-quantizers 1000000 --quantizer rvq"),
    option("codebooks of 17 billion values",
           "--num-quantizers 256 --codebook-size 1048576 --quantizer rvq", "17,179,869,184"),
    option("a wide codebook", "--codebook-size 1048576 --bottleneck-dim 16384",
           "make --codebook-size or --bottleneck-dim smaller"),
    option("parts of a vector that are not equal", "--quantizer pq --num-groups 5", "use 4."),
    option("more parts than a vector has values",
           "--quantizer pq --num-groups 9 --bottleneck-dim 3", "use 3."),
    option("a huge codebook", "--codebook-size 1000000000"),
    option("a codebook of one code", "--codebook-size 1"),
    option("a wide bottleneck", "--bottleneck-dim 1000000000"),
    option("a wide projection", "--feature-dim 1000000000"),
    option("no projection", "--feature-dim 0"),
    option("huge images", "--image-size 1000000"),
    option("huge images in one direction", "--image-size 64x1000000"),
    option("images of 5,000 digits", f"--image-size {_NINES}"),
    option("no images per step", "--batch-size 0"),
    option("a huge batch", "--batch-size 1000000000"),
    option("a billion epochs", "--epochs 1000000000"),
    option("epochs of 5,000 digits", f"--epochs {_NINES}"),
    option("a fraction of an epoch", "--epochs 1.5"),
    option("a million workers", "--num-workers 1000000"),
    option("workers below zero", "--num-workers -1"),
    option("a subset of nothing", "--subset-size 0"),
    option("a subset of more than there can be", "--subset-size 99999999999"),
    option("no batches", "--max-batches 0"),
    *(option(f"a learning rate of {rate}", f"--lr {rate}")
      for rate in ("nan", "inf", "-1", "0", "1e400")),
    option("a decay above one", "--decay 1.5"),
    option("a weight beyond reason", "--commitment-weight 1e300"),
    option("a weight that is no number", "--vq-loss-weight nan"),
    option("a stride of no vectors", "--code-stride 0"),
    option("a stride beyond reason", "--code-stride 9"),
    option("a stride of text", "--code-stride 2x2"),
    option("a stride without codes", "--code-stride 2 --quantizer none"),
    option("a stride of a baseline", "--code-stride 2", command="baseline --dry-run"),
    option("a stride that makes wide blocks", "--code-stride 8 --bottleneck-dim 128",
           "blocks of 8,192 values"),
    option("a codec without FAISS", "--codec SQ8", "choose --quantizer faiss"),
    option("levels of 2^30 codes", "--levels 1024,1024,1024 --quantizer fsq"),
    option("a level of one", "--levels 8,1 --quantizer fsq"),
    option("a level of none", "--levels 0 --quantizer fsq"),
    option("a level of 5,000 digits", f"--levels {_NINES} --quantizer fsq"),
    option("a thousand levels", f"--levels {','.join('3' * 1000)} --quantizer fsq"),
    option("a level that is missing", "--levels 8,,5 --quantizer fsq"),
    option("a layer beyond any", "--layer 99999999999 --model timm:test_vit"),
    option("a layer that is missing", "--layer 1,,2 --model timm:test_vit"),
    option("a class weight that is no number", "--class-weights 1,nan,1"),
    option("300 class weights", f"--class-weights {','.join('1' * 300)}"),
    option("a seed below zero", "--seed -1"),
    option("a seed of 33 bits", "--seed 4294967296"),
    option("a million devices", "--devices 1000000"),
    option("no devices", "--devices 0"),
    option("devices of 5,000 digits", f"--devices {_NINES}"),
    option("a million machines and more", "--num-nodes 100000000"),
    option("an empty folder", "--data-dir ''", "argument is empty"),
    option("an empty folder after =", "--data-dir="),
    option("an empty name", "--name ''", "argument is empty"),
    option("bytes that are no UTF-8", "--data-dir \udcff", "--data-dir must be a text in UTF-8"),
    option("a name of bytes that are no UTF-8", "--name \udcff"),
    option("an unknown option of such bytes", "--\udcff", "No such option"),
    option("a name that leaves the folder", "--name ../x --dataset synthetic", command="train"),
    Case("a name of 5,000 letters", f"train --dataset synthetic --name {'n' * 5000}", 1, ("long",)),
    Case("a folder of 5,000 letters", f"compare {'n' * 5000}", 1, ("File name too long",)),
    Case("an output folder that is a device", "train --dataset synthetic --output-dir /dev/null", 1,
         ("Cannot make",)),
    *on_run("--batch-size 0", "evaluate", "show"),
    *(
        Case(f"{command}: a folder of features that are not kept", f"{command} runs/vq --no-cache "
             "--cache-dir kept", 2, ("--cache-dir", "--no-cache"), uses=("runs/vq",))
        for command in ("evaluate", "show", "extract-embeddings")
    ),
    *on_run("--batch-size 1000000000", "evaluate", "show"),
    *on_run("--num-workers 1000000"),
    *on_run("--num-workers -1"),
    *on_run("--data-dir="),
    *on_run("--device cuda:9", "evaluate", "show", "extract-embeddings",
            "decode x --to masks --out m"),
    option("show 0 images", "--images 0", command="show nowhere"),
    option("show a seed of 5,000 digits", f"--seed {_NINES} --random", command="show nowhere"),
    option("extract to an empty folder", "--out ''", "argument is empty",
           command="extract-embeddings nowhere"),
    option("decode to an empty folder", "--out ''", "argument is empty",
           command="decode nowhere --to masks"),
    option("backbones, a limit of 5,000 digits", f"--limit {_NINES}", command="backbones"),
    option("compare, an unknown column", f"--sort {'s' * 3000}", "--sort", command="compare ."),
    Case("brackets in the name of a run", "compare runs", uses=("runs/vq",), says=("[red]:x:",),
         make=lambda folder: (folder / "runs/vq").rename(folder / "runs/[red]:x:")),
    *(Case(f"a table in {' '.join(env.values())}", "compare runs", uses=("runs/vq", "runs/base"),
           says=("run",), env=env, executable=True) for env in _ENCODINGS),
    Case("an error in ascii", "evaluate ñandú–Δ", 1, ("holds no run.json",), executable=True,
         env={"PYTHONIOENCODING": "ascii"}),
    Case("help in ascii", "train --help", env={"PYTHONIOENCODING": "ascii"}, executable=True),
    Case("JSON in any encoding", "compare runs --json", uses=("runs/vq",),
         make=lambda folder: (folder / "runs/vq").rename(folder / "runs/ñandú–Δ"), check=one_json),
    Case("streams that are closed or full", "compare runs", uses=("runs/vq",), check=shell(
        "squeeze compare runs >&-",
        "squeeze compare runs --json 2>&-",
        "squeeze compare runs --json >/dev/full; test $? = 1",
        "squeeze nothing 2>/dev/full; test $? = 2")),
    Case("a pipe without a reader", "compare runs", uses=("runs/vq",), check=without_reader),
)  # fmt: skip
