"""Folders of runs: made, locked, found and replaced. docs/usage.md lists the files in a run's folder.

This module imports neither torch nor YAML, so that `squeeze compare` starts quickly.
"""

import contextlib
import itertools
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from types import MappingProxyType

from squeeze_cli.config.record import FinishedRecord, RunRecord
from squeeze_cli.config.resolve import load_run_config, with_run_values, with_values
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.files import LOCK_NAME, locked, remove_parts, write_atomically

RECORD_NAME = "run.json"
CONFIG_NAME = "config.yaml"
# Names of the only files that exist when a run is killed before it writes its record.
_LEFT_OVER = re.compile(rf"{re.escape(CONFIG_NAME)}|{re.escape(LOCK_NAME)}|\..+\.part")


class RunFolder:
    """Folder of one run: the paths within it, its record and its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.config_file = path / CONFIG_NAME
        self.record_file = path / RECORD_NAME
        self.best_checkpoint = path / "checkpoints" / "best.ckpt"
        self.last_checkpoint = path / "checkpoints" / "last.ckpt"
        self.prior_file = path / "prior.safetensors"
        self.codes_folder = path / "codes"
        self.figures_folder = path / "figures"

    @property
    def replaced(self) -> Path:
        """Folder that holds the replaced run of the same name until the training begins."""
        return self.path.with_name(f".{self.name}.replaced")

    def discard(self) -> None:
        """Remove the folder and restore the replaced run; remove the parent folder if it is empty."""
        self.remove(self.path)
        if self.replaced.exists():
            self.replaced.rename(self.path)
        with contextlib.suppress(OSError):  # other runs are there
            self.path.parent.rmdir()

    def remove(self, folder: Path) -> None:
        """Remove the run's folder or the replaced one.

        The folder is renamed first, so that a killed process leaves it complete or hidden.
        """
        hidden = self.path.with_name(f".{self.name}.removed")
        shutil.rmtree(hidden, ignore_errors=True)  # the rest of a removal that was killed
        if folder.exists():
            folder.rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this folder, as `files.locked` does."""
        with locked(self.path, "choose another --name"):
            checkpoints = self.last_checkpoint.parent
            remove_parts((self.path, checkpoints, self.codes_folder, self.figures_folder))
            yield

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Lock the folder, and discard it after an error before the record is written."""
        with self.locked():
            try:
                yield
            except BaseException:
                if not self.record_file.exists():
                    self.discard()
                raise

    def owns(self, file: Path) -> bool:
        """Return whether `file` is, or links to, a file of this run other than a figure."""
        own = (
            self.record_file, self.config_file, self.prior_file, self.best_checkpoint,
            self.last_checkpoint, *self.codes_folder.glob("*"),
        )  # fmt: skip
        with contextlib.suppress(OSError):  # such as a name that is too long
            return file.exists() and any(each.exists() and file.samefile(each) for each in own)
        return False

    def write_record(self, record: RunRecord) -> None:
        """Write `run.json` atomically, stamped with the schema's version and the time."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_atomically(self.record_file, record.to_json(updated=now))

    def read_record(self) -> RunRecord:
        """Read `run.json`; SqueezeError where it is missing, damaged or of a newer version."""
        return RunRecord.read(self.record_file)

    def open_finished(
        self, values: Mapping[str, object] = MappingProxyType({}), levels: int | None = None
    ) -> tuple[FinishedRecord, ExperimentConfig]:
        """Read the record and the configuration of a finished run.

        `values`, by `section.field`, replace values of its configuration. Raises as `read_finished`,
        `load_run_config` and `with_run_values` do, and UsageError where the run has fewer `levels`.
        """
        given = dict(values)
        if given.get("training.batch_size") == 1:  # only training with BatchNorm needs two images
            given["training.batch_size"] = 2
        with_values(ExperimentConfig(), given)  # an invalid value is reported before a missing run
        record = self.read_finished()
        codes = len(record.quantizer.code_sizes) if record.quantizer.type == "rvq" else 0
        if levels is not None and levels not in range(1, codes + 1):
            raise UsageError(
                f"--levels {levels}: {self.path} has {codes} levels, use 1 to {codes}."
                if codes
                else f"--levels is for runs of rvq, which {self.path} is not: leave it out."
            )
        config = load_run_config(self.config_file, record.settings)
        return record, with_run_values(config, given)

    def read_finished(self) -> FinishedRecord:
        """Read the record of a finished run; SqueezeError, with the fix, for another status."""
        record = self.read_record()
        if record.status != "finished":
            command = "baseline" if record.kind == "baseline" else "train"
            raise SqueezeError(
                f"{self.path} is {record.status}, not finished: `squeeze {command} --resume "
                f"--output-dir {quote(str(self.path.parent))} --name {quote(self.name)}` "
                "continues it."
            )
        return FinishedRecord.read(self.record_file)


FoundRun = tuple[RunFolder, RunRecord | SqueezeError]


def create_run(config: ExperimentConfig, overwrite: bool) -> RunFolder:
    """Make the folder of a new run.

    A given name that exists is refused unless `overwrite`; a link is always refused. An automatic name,
    such as `vq-efficientnet-lite0`, gets a number if it exists. A folder of a run that was killed before
    it wrote its record is used again, and a run that it should have replaced is restored.

    Raises UsageError for a name that is taken or is not a plain folder name, and SqueezeError where the
    folder cannot be made or another process trains in it.
    """
    kind = "baseline" if config.kind == "baseline" else config.quantizer.type
    name = config.name or re.sub(r"[:/\\]+", "-", f"{kind}-{config.model.backbone}")
    if not re.fullmatch(r"[\w][\w .+=,@-]*", name):
        raise UsageError(
            f"--name {name!r} cannot be a folder's name: use letters, digits, '-', '_' and '.'."
        )
    runs = Path(config.output_dir)
    run = RunFolder(runs / name)
    try:
        if config.name is None and not overwrite:
            for number in itertools.count(2):  # of several processes, the first gets the folder
                if not run.replaced.exists():
                    with contextlib.suppress(FileExistsError):
                        run.path.mkdir(parents=True)
                        return run
                run = RunFolder(runs / f"{name}-{number}")
        if run.path.is_symlink():  # renaming a link would not move the run's files aside
            raise UsageError(
                f"{run.path} is a link, and is not replaced: delete it, or choose another --name."
            )
        if run.path.exists() or run.replaced.exists():
            _make_room(run, overwrite)
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{error.strerror}; check --output-dir."
        raise SqueezeError(f"Cannot make {run.path}: {reason}") from None
    return run


def _make_room(run: RunFolder, overwrite: bool) -> None:
    """Rename the folder of the run that is replaced; it is deleted when the training begins."""
    if run.path.exists() and not run.record_file.exists():
        if any(not _LEFT_OVER.fullmatch(path.name) for path in run.path.iterdir()):
            raise UsageError(f"{run.path} is not a run's folder: choose another --name.")
        with run.locked():
            if run.replaced.exists():
                run.remove(run.path)
    if run.replaced.exists() and not run.path.exists():  # its successor was killed early
        run.replaced.rename(run.path)
    if not run.record_file.exists():
        return
    if not overwrite:
        raise UsageError(
            f"{run.path} exists: choose another --name, --resume it, or --overwrite it."
        )
    with run.locked():
        if run.replaced.exists():  # `run` was to replace it, and was stopped before its training
            run.remove(run.path)
        else:
            run.path.rename(run.replaced)
            (run.replaced / LOCK_NAME).unlink(missing_ok=True)


def find_resumable(output_dir: Path, name: str | None) -> RunFolder:
    """Return the run to resume: the named one, or the only unfinished one in `output_dir`.

    Raises UsageError where there is none, several, or the named one is finished.
    """
    if name is not None:
        run = RunFolder(output_dir / name)
        if not run.record_file.exists():
            raise UsageError(f"There is no run {run.path} to resume: leave --resume out.")
        if run.read_record().status == "finished":
            raise UsageError(f"{run.path} is finished: nothing to resume; --overwrite replaces it.")
        return run
    found = read_runs([output_dir])
    unfinished = [r for r, rec in found if isinstance(rec, RunRecord) and rec.status != "finished"]
    if not unfinished:
        raise UsageError(f"There is no unfinished run in {output_dir} to resume.")
    if len(unfinished) > 1:
        names = ", ".join(run.name for run in unfinished)
        raise UsageError(f"{output_dir} has several unfinished runs: give --name, one of {names}.")
    return unfinished[0]


def read_runs(folders: Iterable[Path]) -> list[FoundRun]:
    """Read all runs at or below the folders: pairs of a run and its record, or the error of reading it.

    Each run appears once, in the order of the paths. Raises SqueezeError for a missing folder.
    """
    found: dict[Path, RunFolder] = {}
    for folder in folders:
        if not folder.is_dir():
            raise SqueezeError(f"There is no folder {folder}: give a run's folder or one of runs.")
        own = folder / RECORD_NAME
        for file in [own] if own.exists() else sorted(folder.rglob(RECORD_NAME)):
            if not any(part.startswith(".") for part in file.relative_to(folder).parts):
                found[file.parent.resolve()] = RunFolder(file.parent)
    runs: list[FoundRun] = []
    for _, run in sorted(found.items()):
        try:
            runs.append((run, run.read_record()))
        except SqueezeError as error:
            runs.append((run, error))
    return runs


def with_levels(runs: Iterable[FoundRun]) -> list[FoundRun]:
    """Return the runs, each followed by one entry per measured number of first levels of rvq."""
    rows: list[FoundRun] = []
    for run, record in runs:
        rows.append((run, record))
        if isinstance(record, RunRecord):
            rows += [(run, record.of_levels(part)) for part in record.first_levels]
    return rows
