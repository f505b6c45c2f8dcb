"""The parts that can be chosen by name: backbones, quantizers and losses.

The names stand for classes without importing them, because `--help` must not import torch.
A new part is one file and one registration here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from squeeze_cli.config.defaults import CODEBOOK_SIZE, RESIDUAL_CODEBOOK_SIZE, TRIMAP_CLASSES
from squeeze_cli.errors import UsageError, nearest


@dataclass(frozen=True)
class Entry:
    """A registered part.

    Attributes:
        target: `"package.module:Class"`, which `Registry.load` imports.
        summary: One line that describes the part.
        options: The configuration fields that mean something for this part.
        defaults: Values for the fields whose default depends on this part.
    """

    target: str
    summary: str
    options: frozenset[str] = frozenset()
    defaults: Mapping[str, float] = field(default_factory=dict)


class Registry(dict[str, Entry]):
    """The parts of one kind by name, in the order of registration.

    An unknown name raises UsageError, with the nearest name.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def __missing__(self, name: str) -> Entry:
        raise UsageError(f"Unknown {self.kind} {name!r}: {nearest(name, self)}")

    def register(self, name: str, entry: Entry) -> None:
        """Add `name`. Raises ValueError if the name is taken."""
        if name in self:
            raise ValueError(f"the {self.kind} name {name!r} is registered already")
        self[name] = entry

    def check(self, name: str) -> str:
        """Return `name`, if it is registered."""
        self[name]
        return name

    def load(self, name: str) -> Any:
        """Import and return the class behind `name`."""
        module, _, attribute = self[name].target.partition(":")
        return getattr(importlib.import_module(module), attribute)


BACKBONES = Registry("backbone")
for _name, _target, _summary, _classes in (
    ("vit", "vit:ViTBackbone", "ViT-B/32, ImageNet, 768 channels at stride 32", 21),
    ("deeplab", "deeplab:DeepLabBackbone",
     "DeepLabV3-ResNet50, COCO, 2048 channels at stride 8", TRIMAP_CLASSES),
    ("efficientnet-lite0", "efficientnet_lite:EfficientNetLite0Backbone",
     "EfficientNet-Lite0, ImageNet, 320 channels at stride 16", TRIMAP_CLASSES),
):  # fmt: skip
    BACKBONES.register(
        _name,
        Entry(f"squeeze_cli.backbones.{_target}", _summary, defaults={"num_classes": _classes}),
    )

_ENCODER = frozenset({"bottleneck_dim", "encoder_lr_factor"})
_CODES = _ENCODER | {"codebook_size", "commitment_weight", "vq_loss_weight"}
_LEARNED_CODES = _CODES | {"decay", "initialize_codebook"}

QUANTIZERS = Registry("quantizer")
QUANTIZERS.register("vq", Entry(
    "squeeze_cli.quantizers.vq:VQWithProjection",
    "one learned codebook",
    _LEARNED_CODES,
    {"codebook_size": CODEBOOK_SIZE, "encoder_lr_factor": 0.3},
))  # fmt: skip
QUANTIZERS.register("fsq", Entry(
    "squeeze_cli.quantizers.fsq:FSQWithProjection",
    "finite scalar quantization, a grid of levels",
    _ENCODER | {"levels"},
))  # fmt: skip
QUANTIZERS.register("lfq", Entry(
    "squeeze_cli.quantizers.lfq:LFQWithProjection",
    "lookup-free quantization, one bit per dimension",
    _CODES | {"entropy_loss_weight", "diversity_gamma", "spherical"},
    {"codebook_size": CODEBOOK_SIZE},
))  # fmt: skip
QUANTIZERS.register("rvq", Entry(
    "squeeze_cli.quantizers.vq:ResidualVQWithProjection",
    "residual VQ, a stack of learned codebooks",
    _LEARNED_CODES | {"num_quantizers"},
    {"codebook_size": RESIDUAL_CODEBOOK_SIZE},
))  # fmt: skip
QUANTIZERS.register("none", Entry(
    "squeeze_cli.quantizers.identity:IdentityQuantizer", "features pass unchanged",
))  # fmt: skip

LOSSES = Registry("loss")
for _name, _target, _summary in (
    ("ce", "pixelwise:CrossEntropyLoss", "cross-entropy"),
    ("dice", "dice:DiceLoss", "multi-class soft Dice"),
    ("focal", "pixelwise:FocalLoss", "focal, gamma 2"),
    ("combined", "combined:CombinedLoss", "1.0 CE + 1.0 Dice + 0.5 focal"),
):
    LOSSES.register(_name, Entry(f"squeeze_cli.losses.{_target}", _summary))
