"""Any model of timm (https://huggingface.co/docs/timm) by its name: `--model timm:NAME`.

timm itself computes the maps of chosen layers (`forward_intermediates`), loads weights in the formats
of their authors, and interpolates position embeddings to the image size. Size, normalization and
interpolation of the images are in the configuration of the weights.
"""

import difflib
import functools
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.layers.patch_embed import PatchEmbed
from timm.models import VisionTransformer
from torch import Tensor, nn

from squeeze_cli.backbones.base import BackboneNetwork, FrozenBackbone, ViTLastLayer, check_patches
from squeeze_cli.backbones.weights import fetch, hub_file, published_place, without_prefixes
from squeeze_cli.config.fields import Size, size_text
from squeeze_cli.config.schema import ModelConfig
from squeeze_cli.data.transforms import Statistics
from squeeze_cli.errors import SqueezeError, UsageError, nearest, one_line

PREFIX = "timm:"
Settings = dict[str, Any]  # arguments and configurations of timm, by name
# Prefixes of a backbone's tensors in the files of larger models, the outermost first.
PARTS = ("model.", "backbone.")


class TimmBackbone(FrozenBackbone):
    """Maps of one or more layers of a timm model, concatenated along the channels.

    Class and register tokens are left out. Sizes come from the model on torch's `meta` device, which
    neither allocates memory nor computes.
    """

    def __init__(self, config: ModelConfig, size_px: Size) -> None:
        self.model_name = config.backbone.removeprefix(PREFIX)
        own = create_on_meta(self.model_name)
        self.statistics = statistics_of(own)
        self.layers = _choose_layers(config, len(own.feature_info))
        self._settings = own.pretrained_cfg
        self._options: Settings = {"num_classes": 0}
        if self._settings.get("fixed_input_size") and size_px != own_size(own):
            self._options["img_size"] = size_px
        self._trains_last = config.unfreeze_last_layer
        last = (len(own.blocks) - 1,) if isinstance(own, VisionTransformer) else None
        if self._trains_last and (self.layers != last or last == (0,)):
            raise UsageError(
                f"--unfreeze-last-layer cannot be used with {config.backbone} and this --layer: timm's "
                "plain ViTs take it, with their last layer; leave it out, or use --add-adapter."
            )
        if isinstance(patches := getattr(own, "patch_embed", None), PatchEmbed):
            check_patches(config.backbone, patches.patch_size, size_px)
        self._norm, shape = _probe(config.backbone, own, self._options, self.layers, size_px)
        self.feature_dim, rows, columns = shape
        self.stride = size_px[0] // rows
        super().__init__(config, size_px)
        self.grid = rows, columns

    @staticmethod
    def own_image_size(name: str) -> str:
        """Return the image size in the configuration of the weights of `timm:NAME`."""
        return size_text(own_size(create_on_meta(name.removeprefix(PREFIX))))

    @staticmethod
    def known_names() -> list[str]:
        """Return the names of timm's models."""
        return list(timm.list_models())

    def default_weights(self, config: ModelConfig) -> Path:
        """Return the file that timm publishes for this model."""
        file = published_file(self._settings, download=True)
        if file is None:
            tagged = timm.list_pretrained(f"{self.model_name.partition('.')[0]}.*")
            others = f", or one of {', '.join(tagged)}" if tagged else ""
            raise UsageError(
                f"timm publishes no weights for {self.model_name}: give a file with --weights{others}."
            )
        return file

    def create_model(self) -> nn.Module:
        """Create timm's model, without its classifier."""
        model: nn.Module = timm.create_model(self.model_name, **self._options)
        return model

    def load_model(self, state: dict[str, Tensor] | None) -> nn.Module:
        """Create the model with the weights of a file, loaded by timm; all of them must fit.

        A classifier may have any number of classes: the model gets the same number, and ignores it.
        """
        if state is None:
            return self.create_model()
        state = without_prefixes(state, PARTS)
        classes = _count_classes(state, self._settings.get("classifier"))
        source = {"state_dict": state, "num_classes": classes, "label_offset": 0, "source": ""}
        try:
            model: nn.Module = timm.create_model(
                self.model_name, pretrained=True, pretrained_cfg_overlay=source,
                **self._options | {"num_classes": classes},
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - timm's conversion can fail anywhere on such files
            raise SqueezeError(
                f"The weights {self.weights.source} do not fit {self.name} at --image-size "
                f"{size_text(self.size_px)} ({one_line(error)}): give a file of this model."
            ) from None
        del model.pretrained_cfg["state_dict"]  # type: ignore[operator, union-attr]
        return model

    def cut(self, model: nn.Module) -> BackboneNetwork:
        """Cut before the last block of a ViT if it is trained; else the last layer is an identity."""
        if self._trains_last:
            assert isinstance(model, VisionTransformer)
            rows, columns = self.grid
            last_layer = ViTLastLayer(
                model.blocks[-1], model.norm, model.num_prefix_tokens, (rows, columns)
            )
            return BackboneNetwork(TokensBeforeLast(model, self.layers[0] - 1), last_layer)
        return BackboneNetwork(LayerMaps(model, self.layers, self._norm), nn.Identity())


class LayerMaps(nn.Module):
    """Module from images to the maps `[B, C, h, w]` of layers, concatenated along the channels.

    `norm` is whether the model's final norm is applied to each map, as in DINOv2's evaluation.
    """

    def __init__(self, model: nn.Module, layers: tuple[int, ...], norm: bool) -> None:
        super().__init__()
        self.model = model
        self.layers = layers
        self.norm = norm

    def maps(self, images: Tensor) -> list[Tensor]:
        """Compute the maps of each layer."""
        found: list[Tensor] = self.model.forward_intermediates(  # type: ignore[operator]
            images, indices=list(self.layers), norm=self.norm, stop_early=True,
            output_fmt="NCHW", intermediates_only=True,
        )  # fmt: skip
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features of images `[B, 3, H, W]`."""
        return torch.cat(self.maps(images), dim=1)


class TokensBeforeLast(nn.Module):
    """Module from images to a ViT layer's tokens `[B, prefix + h·w, C]`, class and registers first."""

    def __init__(self, model: nn.Module, layer: int) -> None:
        super().__init__()
        self.model = model
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        """Compute the tokens of images `[B, 3, H, W]`."""
        (found,) = self.model.forward_intermediates(  # type: ignore[operator]
            images, indices=[self.layer], return_prefix_tokens=True, norm=False, stop_early=True,
            output_fmt="NLC", intermediates_only=True,
        )  # fmt: skip
        return torch.cat(found[::-1], dim=1) if isinstance(found, tuple) else found


@functools.cache
def create_on_meta(name: str) -> Any:
    """Create a timm model on torch's `meta` device, that is, without values.

    Raises UsageError for a name that timm does not know, SqueezeError where the hub in the name
    (`hf-hub:...`) cannot be reached.
    """
    architecture, _, tag = name.partition(".")
    in_registry = not set(":/") & set(name)
    if in_registry and not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=1)
        hint = f"did you mean {PREFIX}{close[0]}? " if close else ""
        raise UsageError(
            f"timm has no model {name!r}: {hint}`squeeze backbones PATTERN` lists those it has."
        )
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{architecture}.*")]
    if in_registry and tag and tag not in tags:
        raise UsageError(f"timm has no weights {tag!r} for {architecture}: {nearest(tag, tags)}")
    try:
        with torch.device("meta"):
            return timm.create_model(name, num_classes=0).eval()
    except OSError as error:
        raise SqueezeError(f"Cannot read {name} ({one_line(error)}): check the network.") from None
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"timm cannot make {name!r}: {one_line(error)}") from None


def statistics_of(model: nn.Module) -> Statistics:
    """Return mean, standard deviation and interpolation of a timm model's input images."""
    settings = resolve_model_data_config(model)
    mean, std = tuple(settings["mean"]), tuple(settings["std"])
    return Statistics(mean, std, settings["interpolation"])


def own_size(model: nn.Module) -> Size:
    """Return height and width of the images in the configuration of a timm model's weights."""
    _, height, width = resolve_model_data_config(model)["input_size"]
    return height, width


def published_file(settings: Settings, download: bool) -> Path | None:
    """Return the weights file in a timm model's configuration; None if the configuration has none.

    Without `download`, the result is also None if the file is not on this machine. Raises SqueezeError
    if it cannot be downloaded.
    """
    if folder := settings.get("file"):  # of `local-dir:`
        names = ("model.safetensors", "pytorch_model.bin")
        return next((each for name in names if (each := Path(folder, name)).is_file()), None)
    if repository := settings.get("hf_hub_id"):
        return hub_file(repository, settings.get("hf_hub_filename"), download)
    if url := settings.get("url"):
        place = published_place(url)
        return fetch(url, place, settings["architecture"]) if download or place.exists() else None
    return None


def _choose_layers(config: ModelConfig, count: int) -> tuple[int, ...]:
    layers = tuple(sorted(layer + count if layer < 0 else layer for layer in config.layer))
    if len(set(layers)) < len(layers) or not set(layers) <= set(range(count)):
        raise UsageError(
            f"--layer {','.join(map(str, config.layer))} is not valid: {config.backbone} has layers 0 "
            f"to {count - 1}, or -{count} to -1 (the last); name each once."
        )
    return layers


def _probe(
    name: str, own: nn.Module, options: Settings, layers: tuple[int, ...], size_px: Size
) -> tuple[bool, tuple[int, int, int]]:
    """Return whether the layers can be normalized, and channels, rows and columns of the features.

    Raises UsageError where the model does not support the size, or the layers' maps differ in size.
    """
    problem: Exception | None = None
    for norm in (True, False):  # Hiera supports no norm
        try:
            with torch.device("meta"):
                model = own
                if "img_size" in options:
                    model = timm.create_model(name.removeprefix(PREFIX), **options).eval()
                maps = LayerMaps(model, layers, norm).maps(torch.empty(1, 3, *size_px))
        except Exception as error:  # noqa: BLE001 - models refuse a size by exceptions of any kind
            problem = problem or error
            continue
        if len({each.shape[-2:] for each in maps}) > 1:
            sizes = ", ".join(size_text(each.shape[-2:]) for each in maps)
            raise UsageError(
                f"--layer {','.join(map(str, layers))} of {name} have maps of {sizes}: name layers "
                "of one size."
            )
        return norm, (sum(each.shape[1] for each in maps), *maps[0].shape[-2:])
    raise UsageError(
        f"{name} gives no dense features of {size_text(size_px)} images "
        f"({one_line(problem)}): its own --image-size is {size_text(own_size(own))}."
    )


def _count_classes(state: dict[str, Tensor], classifier: str | tuple[str, ...] | None) -> int:
    """Return the number of outputs of the classifier in a file; 0 if it has none."""
    names = (classifier,) if isinstance(classifier, str) else classifier or ()
    for name in (*names, "head", "fc", "classifier"):
        weight = state.get(f"{name}.weight")
        if weight is not None and weight.dim() > 1:
            return len(weight)
    return 0
