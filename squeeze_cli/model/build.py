"""From a configuration to the parts that it names."""

from __future__ import annotations

from torch import nn

from squeeze_cli.backbones.frozen import FrozenBackbone
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.errors import UsageError
from squeeze_cli.heads import create_head
from squeeze_cli.heads.adapters import ResidualAdapter
from squeeze_cli.model.network import FeatureNormalizer, SegmentationNetwork
from squeeze_cli.quantizers import create_quantizer


def build_network(config: ExperimentConfig, backbone: FrozenBackbone) -> SegmentationNetwork:
    """The trainable network for `config` on the frozen `backbone`, not yet initialized.

    Raises UsageError where a size cannot work with this backbone.
    """
    model = config.model
    channels = backbone.feature_dim
    feature_dim = model.feature_dim or channels
    bottleneck = config.quantizer.bottleneck_dim
    if config.quantizer.type != "none" and bottleneck > feature_dim:
        raise UsageError(
            f"--bottleneck-dim {bottleneck} is wider than the {feature_dim} channels it should "
            f"squeeze: take {feature_dim} or less."
        )
    last_layer = None
    if model.unfreeze_last_layer:
        last_layer = backbone.network.last_layer
        last_layer.requires_grad_(True)
    projected = model.feature_dim is not None and model.feature_dim != channels
    network = SegmentationNetwork(
        FeatureNormalizer(channels),
        create_quantizer(config.quantizer, feature_dim),
        create_head(backbone, feature_dim, model.num_classes or backbone.default_num_classes),
        last_layer=last_layer,
        adapter=ResidualAdapter(channels) if model.add_adapter else None,
        projection=nn.Conv2d(channels, feature_dim, kernel_size=1) if projected else None,
    )
    if projected:
        # Its first layer learned other channels than the projection's.
        network.head.expects_raw_features = False
    return network
