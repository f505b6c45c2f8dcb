"""List of the backbones for `--model`, with sizes of their features."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import timm

from squeeze_cli.backbones import create_backbone
from squeeze_cli.backbones.named_models import published_urls
from squeeze_cli.backbones.timm_models import PREFIX, create_on_meta, own_size, published_file
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
    if name.startswith(PREFIX):
        return _describe_timm(name)
    side = BACKBONES[name].image_size
    assert side is not None
    backbone = create_backbone(ModelConfig(backbone=name, weights="none"), (side, side))
    url = published_urls().get(name)
    here = url is None or published_place(url).is_file()
    weights: WeightsPlace = "here" if here else "download"
    return Description(name, backbone.feature_dim, backbone.stride, str(side), None, weights)


def _describe_timm(name: str) -> Description:
    model = create_on_meta(name.removeprefix(PREFIX))
    size, settings = own_size(model), model.pretrained_cfg
    weights: WeightsPlace = "none"
    if published_file(settings, download=False):
        weights = "here"
    elif settings.get("hf_hub_id") or settings.get("url"):
        weights = "download"
    channels = stride = None
    try:
        backbone = create_backbone(ModelConfig(backbone=name, weights="none"), size)
        channels, stride = backbone.feature_dim, backbone.stride
    except UsageError:
        pass
    return Description(name, channels, stride, size_text(size), len(model.feature_info), weights)
