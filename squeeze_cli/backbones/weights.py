"""Weights of backbones: published by torchvision and timm, or in a file; pickled code is never run."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from warnings import catch_warnings

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from squeeze_cli.errors import SqueezeError, UsageError, one_line

_FIX = (
    "give a file with --weights PATH, or use --model efficientnet-lite0, whose weights come "
    "with squeeze"
)

# Keys of the state dict in training checkpoints: averaged weights come first, as in timm.
NESTED = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "teacher")
# Prefixes of tensors' names by DataParallel and by torch.compile.
WRAPPERS = ("module.", "_orig_mod.")

# Random weights are for tests. They have one seed, so that all such runs have the same features.
RANDOM_WEIGHTS_SEED = 0


class Weights:
    """Weights of a backbone in a file, or random weights where `file` is None.

    `source` is the value of `--weights`: `default`, `none` or a path.
    """

    def __init__(self, source: str, file: Path | None = None) -> None:
        self.source = source
        self.file = file
        if file is not None and not file.is_file():
            missing = f"There is no weights file {file}"
            problem = f"{file} is not a weights file" if file.exists() else missing
            raise SqueezeError(f"{problem}: check --weights, or {_FIX}.")
        self._mtime_ns = None if file is None else file.stat().st_mtime_ns

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of the file, or of the seed and package versions of random weights."""
        if self.file is None:
            packages = ("torch", "torchvision", "timm")
            versions = " ".join(f"{name} {version(name)}" for name in packages)
            return hashlib.sha256(f"random {RANDOM_WEIGHTS_SEED} {versions}".encode()).hexdigest()
        with self._reading(self.file), self.file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()

    def read(self) -> dict[str, Tensor] | None:
        """Read the state dict in a safetensors file, or in another file by torch with weights_only.

        The nesting and the prefixes of training checkpoints are removed (`NESTED`, `WRAPPERS`). Returns
        None for random weights. Raises SqueezeError if the file holds no state dict, or values that are
        not finite.
        """
        if self.file is None:
            return None
        # torch warns of TorchScript, which is refused here.
        with self._reading(self.file), catch_warnings(action="ignore"):
            if self.file.suffix.lower() == ".safetensors":
                from safetensors.torch import load_file

                state: object = load_file(self.file)
            else:
                state = torch.load(self.file, map_location="cpu", weights_only=True)
            return without_prefixes(_checked(state), WRAPPERS)

    @contextmanager
    def _reading(self, file: Path) -> Iterator[None]:
        """Raise SqueezeError if the file cannot be read, or was changed since it was chosen."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - unpickling damaged bytes can raise anything
            reason = "it is damaged, or holds Python objects: store the state dict alone"
            if isinstance(error, (OSError, ValueError)):  # other messages advise to unpickle
                reason = one_line(error)
            raise SqueezeError(f"{file} is not a usable weights file ({reason}): {_FIX}.") from None
        if file.stat().st_mtime_ns != self._mtime_ns:
            raise SqueezeError(f"{file} was changed during this command: run it again.")


def without_prefixes(state: dict[str, Tensor], prefixes: Sequence[str]) -> dict[str, Tensor]:
    """Remove each prefix from names; if any name has it, drop the tensors without it."""
    for prefix in prefixes:
        inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        state = inner or state
    return state


def _checked(content: object) -> dict[str, Tensor]:
    """Return the state dict in a file's content; ValueError without one, or for invalid values."""
    while isinstance(content, dict) and any(isinstance(content.get(k), dict) for k in NESTED):
        content = next(content[key] for key in NESTED if isinstance(content.get(key), dict))
    if not isinstance(content, dict) or not content:
        raise ValueError("it holds no state dict: names to tensors")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"it holds no state dict: {name!r} is not the name of a tensor")
        floating = tensor.is_floating_point() or not name.endswith(("weight", "bias"))
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex() or not floating:
            raise ValueError(f"the tensor {name} holds no floating-point numbers")
        if not torch.isfinite(tensor.float()).all():
            raise ValueError(f"values of the tensor {name} are NaN, infinite or too large")
    return content


def published_weights(enumeration: type[WeightsEnum], name: str) -> Path:
    """Return the file of torchvision's weights `enumeration[name]`, and download it if needed.

    Raises UsageError for a name that torchvision does not know, SqueezeError without a network.
    """
    if name not in enumeration.__members__:
        known = ", ".join(enumeration.__members__)
        raise UsageError(f"torchvision has no weights {name!r} for this backbone: choose {known}.")
    place = published_place(enumeration[name].url)
    return fetch(enumeration[name].url, place, f"{enumeration.__name__}.{name}")


def published_place(url: str) -> Path:
    """Return the path in torch's cache for the file at `url`."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name


def fetch(url: str, place: Path, name: str) -> Path:
    """Download weights from `url` to `place` unless they are there, and return `place`.

    The download uses HTTPS and is checked against the first digits of its SHA-256 in the file's name.
    Raises SqueezeError without a network, without HTTPS, or without these digits. `name` is the name of
    the weights in messages.
    """
    if place.exists():
        return place
    digest = torch.hub.HASH_REGEX.search(place.name)
    if digest is None or url.startswith("http://"):
        raise SqueezeError(
            f"The weights {name} are not downloaded, because {url} has no checksum or no HTTPS: put "
            f"them at {place}, {_FIX}."
        )
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(place), digest.group(1), progress=False)
    except (OSError, RuntimeError) as error:
        raise SqueezeError(
            f"Cannot download the weights {name} ({one_line(getattr(error, 'reason', error))}): put "
            f"{url} at {place}, {_FIX}."
        ) from None
    return place


def hub_file(repository: str, name: str | None, download: bool) -> Path | None:
    """Return the weights file of a repository on the Hugging Face hub, from its cache if possible.

    Without `name`, timm's two usual names are tried. Without `download`, the result is None if the file
    is not in the cache. Raises SqueezeError if it cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = repository.partition("@")
    names = (name,) if name else ("model.safetensors", "pytorch_model.bin")
    for each in names:
        cached = try_to_load_from_cache(repository, each, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    if not download:
        return None
    for each in names:
        try:
            return Path(hf_hub_download(repository, each, revision=revision or None))
        except (OSError, ValueError, EntryNotFoundError) as error:
            problem = error
            missing = isinstance(error, EntryNotFoundError)
            if not missing or isinstance(error, LocalEntryNotFoundError):  # there is no network
                break
    raise SqueezeError(
        f"Cannot download the weights {repository} from the Hugging Face hub "
        f"({one_line(problem)}): fetch them where there is a network, or {_FIX}."
    )


def load_strictly(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load `state` as float32; SqueezeError, with details, unless all names and shapes fit.

    The module may be on torch's `meta` device, because its parameters are replaced.
    """
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    try:
        # torchvision's modules rename the older names of ViT's MLPs, which published files have.
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise SqueezeError(
            f"The weights {source} do not fit this backbone ({one_line(error)}): {_FIX}."
        ) from None
