"""Building of the network that a configuration describes."""

from torch import nn

from squeeze_cli.backbones.base import FeatureOrigin, FrozenBackbone
from squeeze_cli.config.parts import choose_head, has_bottleneck
from squeeze_cli.config.schema import ExperimentConfig
from squeeze_cli.errors import UsageError
from squeeze_cli.heads import create_head
from squeeze_cli.model.layers import (
    ADAPTER_REDUCTION,
    ENCODER_BLOCKS,
    ENCODER_CHANNELS,
    Blocks,
    ResidualPath,
)
from squeeze_cli.model.network import FeatureNormalizer, SegmentationNetwork
from squeeze_cli.quantizers import StepSize, create_quantizer


def build_network(
    config: ExperimentConfig, backbone: FeatureOrigin, processes: int = 1
) -> SegmentationNetwork:
    """Build the trainable network for `config` on frozen features, not yet initialized.

    The network takes the last layer of the backbone, if that is trained. `processes` that train
    together synchronize their codebooks. Raises UsageError if the bottleneck is too wide, or
    vectors have no neighbours to share a code with.
    """
    model = config.model
    channels = backbone.feature_dim
    feature_dim = model.feature_dim or channels
    bottleneck = config.quantizer.bottleneck_dim
    if has_bottleneck(config.quantizer.type) and bottleneck > feature_dim:
        raise UsageError(
            f"--bottleneck-dim {bottleneck} is wider than the {feature_dim} channels to be "
            f"quantized: use {feature_dim} or less."
        )
    last_layer = None
    if model.unfreeze_last_layer:
        assert isinstance(backbone, FrozenBackbone)
        last_layer = backbone.network.last_layer
        last_layer.requires_grad_(True)
    head = None
    if model.has_head:
        assert model.num_classes is not None  # it is known once the masks are read
        head = create_head(
            choose_head(model.head, model.backbone), feature_dim, model.num_classes,
            backbone.head_state(), model.use_kernels,
        )  # fmt: skip
    projected = feature_dim != channels
    if head is not None and projected:
        # The pretrained first layer knows the backbone's channels, not the projection's.
        head.expects_raw_features = False
    stride, vectors, blocks = config.quantizer.code_stride, backbone.vectors_per_image, None
    if stride > 1:
        if vectors == 1:
            raise UsageError(
                f"--code-stride {stride} joins neighbouring vectors, but an image has one: leave it out."
            )
        blocks = Blocks(feature_dim, bottleneck, stride)
    codes = -(-vectors // stride**2)  # where the stride divides the map
    step = StepSize(config.training.batch_size * processes * codes, processes, codes)
    channels_in = feature_dim if blocks is None else bottleneck * stride**2
    return SegmentationNetwork(
        FeatureNormalizer(channels), create_quantizer(config.quantizer, channels_in, step), head,
        last_layer=last_layer,
        adapter=ResidualPath(channels, max(1, channels // ADAPTER_REDUCTION))
        if model.add_adapter else None,
        projection=nn.Conv2d(channels, feature_dim, kernel_size=1) if projected else None,
        encoder=ResidualPath(feature_dim, ENCODER_CHANNELS, ENCODER_BLOCKS)
        if model.encoder == "conv" else None,
        blocks=blocks, use_kernels=model.use_kernels,
    )  # fmt: skip
