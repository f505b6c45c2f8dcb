"""The names of the parts that can be chosen: backbones, quantizers, losses. Imports no torch."""

from __future__ import annotations

from squeeze_cli.config.registry import Entry, Registry

BACKBONES = Registry("backbone")
BACKBONES.register(
    "vit",
    Entry(
        "squeeze_cli.backbones.vit:ViTBackbone",
        "ViT-B/32, ImageNet, 768 channels at stride 32",
        options=frozenset({"vit_weights"}),
        defaults={"num_classes": 21},
    ),
)
BACKBONES.register(
    "deeplab",
    Entry(
        "squeeze_cli.backbones.deeplab:DeepLabBackbone",
        "DeepLabV3-ResNet50, COCO, 2048 channels at stride 8",
        options=frozenset({"deeplab_weights"}),
        defaults={"num_classes": 3},
    ),
)
BACKBONES.register(
    "efficientnet-lite0",
    Entry(
        "squeeze_cli.backbones.efficientnet_lite:EfficientNetLite0Backbone",
        "EfficientNet-Lite0, ImageNet, 320 channels at stride 16",
        defaults={"num_classes": 3},
    ),
)

QUANTIZERS = Registry("quantizer")
_LEARNED_CODEBOOK = {
    "codebook_size",
    "bottleneck_dim",
    "decay",
    "commitment_weight",
    "vq_loss_weight",
    "initialize_codebook",
    "encoder_lr_factor",
}
QUANTIZERS.register(
    "vq",
    Entry(
        "squeeze_cli.quantizers.vq:VQWithProjection",
        "one learned codebook",
        options=frozenset(_LEARNED_CODEBOOK),
        defaults={"encoder_lr_factor": 0.3},
    ),
)
QUANTIZERS.register(
    "fsq",
    Entry(
        "squeeze_cli.quantizers.fsq:FSQWithProjection",
        "finite scalar quantization, a grid of levels",
        options=frozenset({"levels", "bottleneck_dim", "encoder_lr_factor"}),
    ),
)
QUANTIZERS.register(
    "lfq",
    Entry(
        "squeeze_cli.quantizers.lfq:LFQWithProjection",
        "lookup-free quantization, one bit a dimension",
        options=frozenset(
            {
                "codebook_size",
                "bottleneck_dim",
                "entropy_loss_weight",
                "diversity_gamma",
                "spherical",
                "commitment_weight",
                "vq_loss_weight",
                "encoder_lr_factor",
            }
        ),
    ),
)
QUANTIZERS.register(
    "rvq",
    Entry(
        "squeeze_cli.quantizers.residual_vq:ResidualVQWithProjection",
        "residual VQ, a stack of learned codebooks",
        options=frozenset({*_LEARNED_CODEBOOK, "num_quantizers"}),
        defaults={"codebook_size": 256},
    ),
)
QUANTIZERS.register(
    "none",
    Entry("squeeze_cli.quantizers.identity:IdentityQuantizer", "features pass as they are"),
)

LOSSES = Registry("loss")
LOSSES.register("ce", Entry("squeeze_cli.losses.cross_entropy:CrossEntropyLoss", "cross-entropy"))
LOSSES.register("dice", Entry("squeeze_cli.losses.dice:DiceLoss", "multi-class soft Dice"))
LOSSES.register("focal", Entry("squeeze_cli.losses.focal:FocalLoss", "focal, gamma 2"))
LOSSES.register(
    "combined",
    Entry("squeeze_cli.losses.combined:CombinedLoss", "1.0 CE + 1.0 Dice + 0.5 focal"),
)
