"""List of the backbones for `--model`, with sizes of their features."""

from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import timm

from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.timm_models import PREFIX, create_on_meta, own_size, published_file
from squeeze_cli.backbones.torchvision_models import published_urls
from squeeze_cli.backbones.weights import published_place
from squeeze_cli.config.fields import size_text
from squeeze_cli.config.parts import BACKBONES
from squeeze_cli.config.schema import ModelConfig
from squeeze_cli.errors import UsageError

# Published weights are on this machine, can be downloaded, or do not exist.
WeightsPlace = Literal["here", "download", "none"]


@dataclass(frozen=True)
class Description:
    """Description of a backbone at its default image size; `layers` is a timm model's number of layers.

    A model without dense features has neither channels nor stride.
    """

    name: str
    channels: int | None
    stride: int | None
    image_size: str
    layers: int | None
    weights: WeightsPlace


def find_names(pattern: str) -> list[str]:
    """Return the names that match a shell pattern, or contain a text without wildcards."""
    tagged = timm.list_pretrained()
    with_weights = {name.partition(".")[0] for name in tagged}
    others = (name for name in timm.list_models() if name not in with_weights)
    names = [name for name in BACKBONES if name != PREFIX]
    names += sorted(f"{PREFIX}{name}" for name in (*tagged, *others))
    if not set("*?[") & set(pattern):
        pattern = f"*{pattern}*"
    return [
        n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n.removeprefix(PREFIX), pattern)
    ]


def describe(name: str) -> Description:
    """Return the description of a backbone, without downloading or allocating weights."""
    weights: WeightsPlace = "download"
    if name.startswith(PREFIX):
        model = create_on_meta(name.removeprefix(PREFIX))
        size, layers, settings = own_size(model), len(model.feature_info), model.pretrained_cfg
        if published_file(settings, download=False):
            weights = "here"
        elif not (settings.get("hf_hub_id") or settings.get("url")):
            weights = "none"
    else:
        side = BACKBONES[name].image_size
        assert side is not None
        size, layers, url = (side, side), None, published_urls().get(name)
        if url is None or published_place(url).is_file():
            weights = "here"
    channels = stride = None
    with suppress(UsageError):
        backbone = create_backbone(ModelConfig(backbone=name, weights="none"), size)
        channels, stride = backbone.feature_dim, backbone.stride
    return Description(name, channels, stride, size_text(size), layers, weights)
