"""A run's folder: what is in it, how it is made, written and read. Needs neither torch nor YAML.

runs/NAME/
  config.yaml         the resolved configuration
  run.json            the run record (docs/run-record.md); all that `squeeze compare` reads
  checkpoints/        best.ckpt (highest val/iou) and last.ckpt (to resume)
  prior.safetensors   what codes files are coded by
  codes/              codes files of `val` and `test`; features and codes of val's first batch
  figures/            pictures of predictions, codebook usage and training
  tensorboard/        events
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote

from squeeze_cli.config.record import (
    SCHEMA_VERSION,
    FinishedRecord,
    RunRecord,
    as_finished,
    parse_record,
)
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.files import write_text_atomically

RECORD_NAME = "run.json"


@dataclass(frozen=True)
class RunFolder:
    """The paths within one run's folder, and its record."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name: its folder's."""
        return self.path.name

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def record_file(self) -> Path:
        """The run record."""
        return self.path / RECORD_NAME

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint of the epoch with the highest val/iou."""
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def last_checkpoint(self) -> Path:
        """The checkpoint of the last whole epoch, or of one shortly before (`WRITING_SHARE`)."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def prior_file(self) -> Path:
        """The prior over codes; runs that quantize nothing, or with very large codes, have none."""
        return self.path / "prior.safetensors"

    @property
    def codes_folder(self) -> Path:
        """Codes files."""
        return self.path / "codes"

    @property
    def figures_folder(self) -> Path:
        """Pictures: those made after training, and those of `squeeze show`."""
        return self.path / "figures"

    @property
    def replaced(self) -> Path:
        """Where the run that this one replaces waits until it is sure that this one is trained."""
        return self.path.with_name(f".{self.name}.replaced")

    def discard(self) -> None:
        """Remove the folder, and the one around it where nothing else is in it.

        What it was to replace comes back.
        """
        shutil.rmtree(self.path)
        if self.replaced.exists():
            self.replaced.rename(self.path)
        with contextlib.suppress(OSError):  # other runs are there
            self.path.parent.rmdir()

    def drop_replaced(self) -> None:
        """Remove the run that this one replaces."""
        shutil.rmtree(self.replaced, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Within the block no other process trains in this folder; SqueezeError where one does.

        The lock goes with the process, however that ends. Where the system has no such locks
        (Windows, some network file systems) nothing is held.
        """
        try:
            import fcntl
        except ImportError:
            yield
            return
        place = self.path / ".lock"
        with place.open("w") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise SqueezeError(
                    f"Another process is at work on {self.path}: wait for it, or choose another "
                    "--name."
                ) from None
            except OSError:
                pass
            try:
                yield
            finally:
                place.unlink(missing_ok=True)

    def write_record(self, record: RunRecord) -> None:
        """Write `run.json` atomically, stamped with the schema's version and the time."""
        stamp = {
            "schema_version": SCHEMA_VERSION,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_text_atomically(self.record_file, record.model_copy(update=stamp).to_json())

    def read_record(self) -> RunRecord:
        """Read `run.json`; SqueezeError where it is missing, damaged or of a newer version."""
        try:
            text = self.record_file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise SqueezeError(
                f"{self.path} holds no {RECORD_NAME}: is it a run's folder?"
            ) from None
        except (OSError, ValueError) as error:
            raise SqueezeError(f"{self.record_file} cannot be read: {error}.") from None
        return parse_record(text, self.record_file)

    def read_finished(self) -> FinishedRecord:
        """Read the record of a finished run; SqueezeError, which names the fix, for any other."""
        record = self.read_record()
        if record.status != "finished":
            command = "baseline" if record.kind == "baseline" else "train"
            raise SqueezeError(
                f"{self.path} is {record.status}, not finished: `squeeze {command} --resume "
                f"--output-dir {quote(str(self.path.parent))} --name {quote(self.name)}` goes on "
                "with it."
            )
        return as_finished(record, self.record_file)


def automatic_name(config: ExperimentConfig) -> str:
    """A name that says what the run is: `vq-efficientnet-lite0`, `baseline-vit`."""
    kind = "baseline" if config.kind == "baseline" else config.quantizer.type
    return f"{kind}-{config.model.backbone}"


def create_run(config: ExperimentConfig, overwrite: bool) -> RunFolder:
    """Make the folder of a new run, empty.

    A given name that exists is refused unless `overwrite`; an automatic one gets a number.
    Raises UsageError for a name that is taken or could leave the output folder.
    """
    output_dir = Path(config.output_dir)
    name = config.name or automatic_name(config)
    if not re.fullmatch(r"[\w][\w .+=,@-]*", name):
        raise UsageError(
            f"--name {name!r} cannot be a folder's name: use letters, digits, '-', '_' and '.'."
        )
    path = output_dir / name
    if path.exists() and config.name is None and not overwrite:
        number = 2
        while (output_dir / f"{name}-{number}").exists():
            number += 1
        path = output_dir / f"{name}-{number}"
    elif path.exists():
        if not overwrite:
            raise UsageError(
                f"{path} exists: choose another --name, --resume it, or --overwrite it."
            )
        if not (path / RECORD_NAME).exists() and any(path.iterdir()):
            raise UsageError(f"{path} is no run's folder: choose another --name.")
        _put_aside(RunFolder(path))
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise SqueezeError(f"Cannot make {path}: {error.strerror}; check --output-dir.") from None
    return RunFolder(path)


def _put_aside(run: RunFolder) -> None:
    """Make room for a run that replaces `run`, which is lost only when that one is trained."""
    with run.locked():
        if run.replaced.exists():  # it is what was stopped before it came so far that is replaced
            shutil.rmtree(run.path)
        else:
            run.path.rename(run.replaced)
            (run.replaced / ".lock").unlink(missing_ok=True)


def find_resumable(output_dir: Path, name: str | None) -> RunFolder:
    """The run to resume: the named one, or the only unfinished one in `output_dir`.

    Raises UsageError where there is none, several, or the named one is finished.
    """
    if name is not None:
        run = RunFolder(output_dir / name)
        if not run.record_file.exists():
            raise UsageError(f"There is no run {run.path} to resume: leave --resume out.")
        if run.read_record().status == "finished":
            raise UsageError(f"{run.path} is finished: nothing to resume; --overwrite starts anew.")
        return run
    unfinished = [
        run for run, record in read_runs([output_dir])
        if isinstance(record, RunRecord) and record.status != "finished"
    ]  # fmt: skip
    if not unfinished:
        raise UsageError(f"There is no unfinished run in {output_dir} to resume.")
    if len(unfinished) > 1:
        names = ", ".join(run.name for run in unfinished)
        raise UsageError(
            f"Several runs in {output_dir} are unfinished: add --name, one of {names}."
        )
    return unfinished[0]


def read_runs(folders: Iterable[Path]) -> list[tuple[RunFolder, RunRecord | SqueezeError]]:
    """All runs at or below the folders given, each with its record or what is wrong with it.

    Sorted by path, each run once. Raises SqueezeError for a folder that does not exist.
    """
    found: dict[Path, RunFolder] = {}
    for folder in folders:
        if not folder.is_dir():
            raise SqueezeError(f"There is no folder {folder}: give a run's folder or one of runs.")
        records = [folder / RECORD_NAME] if (folder / RECORD_NAME).exists() else []
        for record_file in records or sorted(folder.rglob(RECORD_NAME)):
            if any(part.startswith(".") for part in record_file.relative_to(folder).parts):
                continue
            found[record_file.parent.resolve()] = RunFolder(record_file.parent)
    runs: list[tuple[RunFolder, RunRecord | SqueezeError]] = []
    for _, run in sorted(found.items()):
        try:
            runs.append((run, run.read_record()))
        except SqueezeError as error:
            runs.append((run, error))
    return runs
