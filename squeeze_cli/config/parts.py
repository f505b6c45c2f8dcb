"""Registries of the parts with a name: data sets, backbones, heads, quantizers and losses.

A name refers to a class that is imported at its use, because `--help` must not import torch.
A new part is one file and one entry here.
"""

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from squeeze_cli.config.defaults import CODEBOOK_SIZE, RATE_WEIGHT, SMALL_CODEBOOK_SIZE, STEP_SIZE
from squeeze_cli.errors import UsageError, nearest


@dataclass(frozen=True)
class Entry:
    """Entry of a registry: the class of a part, and its fields and defaults of the configuration.

    Attributes:
        target: Its class within `squeeze_cli`, as `"folder.module:Class"`.
        options: The configuration fields that this part uses.
        defaults: Defaults of configuration fields that depend on this part.
        image_size: Default side of a backbone's images in pixels; None where its class decides.
        photographs: For a data set of drawn images: the data set of the same classes that
            `--data-dir` replaces it by.
    """

    target: str
    options: frozenset[str] = frozenset()
    defaults: Mapping[str, float | str] = field(default_factory=dict)
    image_size: int | None = 224
    photographs: str | None = None


class Registry(dict[str, Entry]):
    """Parts of one kind by name. An unknown name raises UsageError with the most similar name.

    A name that ends in a colon, such as `timm:`, is the prefix of a family of names, which its class
    lists.
    """

    def __init__(self, kind: str, entries: Mapping[str, Entry], *reserved: str) -> None:
        super().__init__(entries)
        self.kind = kind
        self.reserved = reserved  # names without an entry, which `config.resolve` sets

    def __missing__(self, name: str) -> Entry:
        return self[self._key(name)]

    def _key(self, name: str) -> str:
        """Return the key of the entry for `name`; UsageError for an unknown name."""
        prefix, colon, rest = name.partition(":")
        key = prefix + colon if rest else name
        if key not in self:
            raise UsageError(f"Unknown {self.kind} {name!r}: {nearest(name, self.names)}")
        return key

    @property
    def names(self) -> list[str]:
        """Names as a help text shows them, such as `timm:NAME`."""
        return [f"{name}NAME" if name.endswith(":") else name for name in self]

    def check(self, name: str) -> str:
        """Return `name` in its preferred spelling; UsageError for an unknown name."""
        if ":" not in name:
            name = name.replace("_", "-")
        if name in self.reserved:
            return name
        if self._key(name) == name and name.endswith(":"):
            raise UsageError(f"{name} needs a name after it, as in {name}NAME.")
        return name

    def complete(self, start: str) -> list[str]:
        """Return the names that begin with `start`, those of a family too after its prefix."""
        prefix, colon, _ = start.partition(":")
        names = list(self)
        if colon and prefix + colon in self:
            names = [f"{prefix}:{name}" for name in self.load(prefix + colon).known_names()]
        return [name for name in names if name.startswith(start)]

    def load(self, name: str) -> Any:
        """Import and return the class of the part `name`."""
        return pkgutil.resolve_name(f"squeeze_cli.{self[name].target}")


# The name of the data set of `--features`, and of the backbone then.
GIVEN_FEATURES = "features"
_THREE_CLASSES = {"num_classes": 3}
DATASETS = Registry("dataset", {
    "folder": Entry("data.folder:FolderSource", frozenset({
        "images", "masks", "test_images", "test_masks", "split_file", "classes", "ignore_index",
        "mask_suffix"})),
    "oxford-pet": Entry("data.known_sets:OxfordPetSource", frozenset({"data_dir"}), _THREE_CLASSES),
    "voc": Entry("data.known_sets:VOCSource", frozenset({"data_dir"}), {"num_classes": 21}),
    "synthetic": Entry("data.drawn_pets:SyntheticPetSource", defaults=_THREE_CLASSES,
                       photographs="oxford-pet"),
    GIVEN_FEATURES: Entry("data.arrays:FeatureSource",
                          frozenset({"features", "feature_names", "split_file"})),
})  # fmt: skip
DEFAULT_DATASET = "oxford-pet"

_CONV = {"head": "conv"}
BACKBONES = Registry("backbone", {
    "vit": Entry("backbones.torchvision_models:ViTBackbone", defaults=_CONV),
    "deeplab": Entry("backbones.torchvision_models:DeepLabBackbone", defaults={"head": "deeplab"}),
    "efficientnet-lite0": Entry(
        "backbones.efficientnet_lite:EfficientNetLite0Backbone", defaults=_CONV),
    "timm:": Entry("backbones.timm_models:TimmBackbone", frozenset({"layer"}), _CONV,
                   image_size=None),
}, GIVEN_FEATURES)  # fmt: skip


def choose_head(head: str | None, backbone: str) -> str:
    """Return the name of the head; None, in records of older runs, means the backbone's default."""
    return head or str(BACKBONES[backbone].defaults["head"])


HEADS = Registry("head", {
    "conv": Entry("heads.base:ConvolutionalHead"),
    "linear": Entry("heads.linear_head:LinearHead"),
    "deeplab": Entry("heads.deeplab_head:DeepLabSegmentationHead"),
})  # fmt: skip

_ENCODER = frozenset({"codes", "bottleneck_dim", "encoder_lr_factor", "code_stride"})
_CODES = _ENCODER | {"codebook_size", "commitment_weight", "vq_loss_weight"}
_LEARNED = _CODES | {"decay", "initialize_codebook", "rate_weight", "target_bits"}
QUANTIZERS = Registry("quantizer", {
    "vq": Entry("quantizers.vq:VQWithProjection", _LEARNED,
                {"codebook_size": CODEBOOK_SIZE, "encoder_lr_factor": 0.3, "rate_weight": 0.03}),
    "fsq": Entry("quantizers.fsq:FSQWithProjection", _ENCODER | {"levels"}),
    "lfq": Entry("quantizers.lfq:LFQWithProjection",
                 _CODES | {"entropy_loss_weight", "diversity_gamma", "spherical"},
                 {"codebook_size": CODEBOOK_SIZE}),
    "rvq": Entry("quantizers.vq:ResidualVQWithProjection",
                 _LEARNED | {"num_quantizers", "quantizer_dropout"},
                 {"codebook_size": SMALL_CODEBOOK_SIZE}),
    "pq": Entry("quantizers.vq:ProductVQWithProjection", _LEARNED | {"num_groups"},
                {"codebook_size": SMALL_CODEBOOK_SIZE}),
    "faiss": Entry("quantizers.faiss_codec:FaissCodec", frozenset({"codec"})),
    "dct": Entry("quantizers.dct:CosineQuantizer",
                 frozenset({"codes", "bottleneck_dim", "encoder_lr_factor", "step_size",
                            "rate_weight", "target_bits"}),
                 {"step_size": STEP_SIZE, "rate_weight": RATE_WEIGHT}),
    "none": Entry("quantizers.base:IdentityQuantizer"),
})  # fmt: skip


def has_bottleneck(quantizer: str) -> bool:
    """Return whether a quantizer projects features to a bottleneck."""
    return "bottleneck_dim" in QUANTIZERS[quantizer].options


# Fields of the losses with masks. With reconstruction alone, trained layers before the quantizer would
# learn features that are easy to reconstruct, not useful ones.
_SEGMENTATION = frozenset({
    "head", "num_classes", "class_weights", "add_adapter", "unfreeze_last_layer", "feature_dim",
    "reconstruction_weight", "distill", "distill_weight",
})  # fmt: skip
LOSSES = Registry("loss", {
    "ce": Entry("losses.segmentation:CrossEntropyLoss", _SEGMENTATION),
    "dice": Entry("losses.segmentation:DiceLoss", _SEGMENTATION),
    "focal": Entry("losses.segmentation:FocalLoss", _SEGMENTATION),
    "combined": Entry("losses.segmentation:CombinedLoss", _SEGMENTATION),
    "reconstruction": Entry("losses:ReconstructionLoss", frozenset({"cosine_weight"})),
})  # fmt: skip
