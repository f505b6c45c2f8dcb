"""`train`, `baseline` and `evaluate` as commands: exit codes, streams, what is imported."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml

from squeeze_cli import cli
from squeeze_cli.files import write_atomically
from squeeze_cli.runs import RunFolder
from tests.conftest import Squeeze
from tests.records import record, write

HEAVY = ("torch", "lightning", "clearml", "matplotlib", "torchvision", "numpy", "yaml")
TINY = (
    "--model", "efficientnet-lite0", "--dataset", "synthetic", "--image-size", "64",
    "--subset-size", "12", "--num-workers", "0", "--epochs", "1",
)  # fmt: skip


def test_warnings_of_pillow_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Those of images that can be read, such as one of 100 million pixels."""

    def warn() -> None:
        for module in ("PIL.Image", "PIL.TiffImagePlugin", "other"):
            warnings.warn_explicit(f"by {module}", UserWarning, "file", 1, module)

    monkeypatch.setattr(cli, "app", warn)
    monkeypatch.setattr(sys, "warnoptions", [])
    cli.main()
    assert [str(each.message) for each in recwarn.list] == ["by other"]


def imported_by(*arguments: str) -> set[str]:
    """The heavy packages that a command line imports."""
    program = (
        "import sys\n"
        "from squeeze_cli.cli import main\n"
        "try: main()\n"
        "finally: print('\\n' + ' '.join(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    return set(HEAVY) & set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("train", "--help"),
        ("train", "--quantizer", "fsq", "--num-quantizers", "3"),
        ("train", "--quantiser", "fsq"),
        ("compare", "."),
        ("show", "runs/it", "--best", "--worst"),
        ("cache", "--help"),
    ],
    ids=" ".join,
)
def test_what_must_be_instant_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert imported_by(*arguments) == set()


def test_dry_run_prints_a_configuration_that_runs_and_does_nothing(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    shown = squeeze("train", *TINY, "--quantizer", "rvq", "--dry-run")
    config = yaml.safe_load(shown.stdout)
    assert config["quantizer"]["codebook_size"] == 256
    assert "Nothing was done" in shown.stdout
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "again.yaml").write_text(shown.stdout)
    again = squeeze("train", "--config", "again.yaml", "--dry-run")
    assert yaml.safe_load(again.stdout) == config


def test_of_a_switch_and_its_opposite_the_last_counts(squeeze: Squeeze) -> None:
    def adapter(*switches: str) -> bool:
        config = json.loads(squeeze("train", *switches, "--dry-run", "--json").stdout)
        return bool(config["model"]["add_adapter"])

    assert not adapter()
    assert adapter("--add-adapter")
    assert adapter("--no-add-adapter", "--add_adapter")
    assert not adapter("--add-adapter", "--no-add-adapter")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("train", "--levels", "8,5"), "--levels has no effect with --quantizer vq"),
        (("train", "--quantizer", "rvq", "--num-quantizers", "0"), "must be 1 or more"),
        (("train", "--quantizer", "lfq", "--codebook-size", "500"), "256 or 512"),
        (("train", "--levels", "a,b"), "each of --levels must be a whole number"),
        (("train", "--quantizer", "vqq"), "'--quantizer': 'vqq' is not one of 'vq'"),
        (("train", "--zzz", "3"), "--zzz (see `squeeze train --help`)"),
        (("trani",), "Did you mean 'train'? (see `squeeze --help`)"),
        (("train", "--quiet", "--verbose"), "contradict"),
        (("train", "--epochs", "0"), "--epochs must be 1 or more (such as 10), not 0."),
        (("train", "--devices", "none"), "--devices must be 1 or more, or auto"),
        (("train", "--config", "quickstrat"), "did you mean 'quickstart'?"),
        (("train", "--resume", "--config", "quickstart"), "--config has no effect with --resume"),
        (("train", "--resume", "--overwrite"), "--overwrite has no effect with --resume"),
        (("train", "--resume", "--name", "nothing"), "There is no run"),
        (
            ("train", "--image-size", "100", "--dataset", "synthetic", "--weights", "none"),
            "96 or 128",
        ),
        (("train", "--name", "../x", *TINY), "cannot be a folder's name"),
        (("compare", "nowhere"), "There is no folder"),
        (("evaluate", "nowhere"), "holds no run.json"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_mistakes_are_one_line_that_names_the_fix(
    squeeze: Squeeze, arguments: tuple[str, ...], part: str
) -> None:
    done = squeeze(*arguments, code=1 if arguments[0] in ("compare", "evaluate") else 2)
    assert part in " ".join(done.stderr.split())
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("Error: ")
    assert not any(line.startswith(("Error: ", "Usage: ")) for line in lines[:-1])


def test_a_usage_error_leaves_no_folder(squeeze: Squeeze, tmp_path: Path) -> None:
    squeeze("train", *TINY, "--bottleneck-dim", "5000", code=2)
    assert not (tmp_path / "runs").exists()


def test_a_file_for_the_data_ends_with_1_and_leaves_no_folder(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    (tmp_path / "oxford-iiit-pet").write_text("a file where the folder should be")
    done = squeeze("train", "--model", "efficientnet-lite0", "--data-dir", str(tmp_path), code=1)
    assert "oxford-iiit-pet is not a folder: check --data-dir" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_that_cannot_be_resumed_yet_keeps_its_folder(
    squeeze: Squeeze, tiny_pets: Path
) -> None:
    """Stopped before its first epoch, then without its data: the folder waits for them."""
    arguments = ("--model", "efficientnet-lite0", "--data-dir", "data", "--image-size", "64")
    config = squeeze("train", *arguments, "--name", "it", "--dry-run").stdout
    run = RunFolder(tiny_pets / "runs" / "it")
    write_atomically(run.config_file, config)
    stopped = record(0.5, status="interrupted", model=None)
    run.record_file.write_text(json.dumps({"schema_version": 1, **stopped}))
    (tiny_pets / "data").write_text("a file where the folder should be")
    squeeze("train", "--resume", "--name", "it", code=1)
    assert run.config_file.exists()
    assert run.read_record().status == "failed"


def test_an_existing_name_is_not_overwritten_unasked(squeeze: Squeeze, tmp_path: Path) -> None:
    squeeze("baseline", *TINY, "--name", "it", "--quiet")
    created = json.loads((tmp_path / "runs/it/run.json").read_text())["created"]
    (tmp_path / "runs/it/mark").touch()
    refused = squeeze("baseline", *TINY, "--name", "it", code=2)
    assert "--overwrite" in refused.stderr
    assert (tmp_path / "runs/it/mark").exists()
    assert json.loads((tmp_path / "runs/it/run.json").read_text())["created"] == created
    squeeze("baseline", *TINY, "--name", "it", "--overwrite")
    assert not (tmp_path / "runs/it/mark").exists()
    squeeze("train", "--resume", "--name", "it", code=2)  # finished


def test_what_is_overwritten_is_lost_only_when_the_new_run_is_trained(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    squeeze("baseline", *TINY, "--name", "it", "--quiet")
    record = (tmp_path / "runs/it/run.json").read_bytes()
    (tmp_path / "oxford-iiit-pet").write_text("a file where the folder should be")
    wrong = ("--model", "efficientnet-lite0", "--data-dir", ".", "--name", "it", "--overwrite")
    squeeze("train", *wrong, code=1)
    assert (tmp_path / "runs/it/run.json").read_bytes() == record
    # Killed after it was put aside: what comes next replaces the same run.
    (tmp_path / "runs/it").rename(tmp_path / "runs/.it.replaced")
    (tmp_path / "runs/it").mkdir()
    assert "no folder" not in squeeze("compare", "runs", code=None).stdout
    squeeze("train", *wrong, code=1)
    assert (tmp_path / "runs/it/run.json").read_bytes() == record
    squeeze("baseline", *TINY, "--name", "it", "--overwrite")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["it"]


def test_a_run_has_one_process(squeeze_executable: Squeeze, tmp_path: Path) -> None:
    run = write(tmp_path / "runs", "it", record(0.5))
    with run.locked():
        refused = squeeze_executable("baseline", *TINY, "--name", "it", "--overwrite", code=1)
    assert "at work on runs/it" in refused.stderr
    assert run.read_record().status == "finished"
    assert [path.name for path in run.path.iterdir()] == ["run.json"]


def test_places_that_cannot_be_written_are_one_line(squeeze: Squeeze, tmp_path: Path) -> None:
    squeeze("baseline", *TINY, "--name", "it", "--quiet")
    (tmp_path / "file").touch()
    for arguments in (
        ("compare", "runs", "--csv", "file/a.csv"),
        ("train", *TINY, "--cache-dir", "file"),
        ("train", *TINY, "--name", "n" * 300),
        ("extract-embeddings", "runs/it", "--format", "features", "--out", "file/out"),
    ):
        said = squeeze(*arguments, code=1).stderr.splitlines()
        assert len([line for line in said if line.startswith("Error: ")]) == 1
        assert not any("Traceback" in line for line in said)


def test_the_mend_of_an_unfinished_run_names_its_folder(squeeze: Squeeze, tmp_path: Path) -> None:
    write(tmp_path / "my runs", "it", record(0.5, kind="baseline", status="failed"))
    told = squeeze("evaluate", "my runs/it", code=1).stderr
    assert "squeeze baseline --resume --output-dir 'my runs' --name it" in told


def test_damaged_records_are_told(squeeze: Squeeze, tmp_path: Path) -> None:
    run = write(tmp_path, "it", record(0.5))
    for change, told in (
        ({"seed": "7"}, "seed must be a whole number"),
        ({"model": 3}, "model must be"),
        ({"model": None}, "model must be"),
        ({"status": "ended"}, "status must be 'running', "),
    ):
        run.record_file.write_text(json.dumps({"schema_version": 1, **record(0.5), **change}))
        (line,) = squeeze("evaluate", "it", code=1).stderr.splitlines()
        assert line.startswith(f"Error: it/run.json is damaged ({told}")
    for text, told in (("{}", "is not a run record of"), ("[]", "is damaged (it holds no JSON")):
        run.record_file.write_text(text)
        assert f"run.json {told}" in squeeze("evaluate", "it", code=1).stderr


def test_automatic_names_are_numbered(squeeze: Squeeze, tmp_path: Path) -> None:
    for _ in range(2):
        squeeze("baseline", *TINY)
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == ["baseline-efficientnet-lite0", "baseline-efficientnet-lite0-2"]


@pytest.mark.slow
def test_json_is_all_of_stdout_and_quiet_says_nothing(squeeze: Squeeze, tmp_path: Path) -> None:
    done = squeeze("train", *TINY, "--json")
    assert json.loads(done.stdout)["status"] == "finished"
    assert json.loads(done.stdout) == json.loads(
        (tmp_path / "runs/vq-efficientnet-lite0/run.json").read_text()
    )
    quiet = squeeze("baseline", *TINY, "--quiet")
    assert quiet.stdout == ""
    assert quiet.stderr == ""


@pytest.mark.slow
def test_the_executable_trains_and_python_m_is_the_same(
    squeeze_executable: Squeeze, tmp_path: Path
) -> None:
    done = squeeze_executable("baseline", *TINY, "--name", "it")
    assert "mean IoU" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr  # plain text where there is no terminal
    assert "Warning" not in done.stderr
    run = tmp_path / "runs" / "it"
    # Drawn beside: in a process of its own nothing has imported matplotlib.
    assert {path.name for path in (run / "figures").iterdir()} == {
        "predictions.png",
        "training.png",
    }
    assert not (run / ".lock").exists()
    module = subprocess.run(
        [sys.executable, "-m", "squeeze_cli", "compare", "runs", "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert module.stdout == squeeze_executable("compare", "runs", "--json").stdout
