"""Building of the network that a configuration describes, and its initialization by normalization, PCA
and k-means on pooled training features."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
from squeeze_cli.quantizers import TrainingStep, create_quantizer
from squeeze_cli.quantizers.projection import principal_axes, start_at_principal_axes

POOL_VECTORS = 65536
Batches = Iterable[tuple[Tensor, Tensor]]


def build_network(
    config: ExperimentConfig, backbone: FeatureOrigin, processes: int = 1
) -> SegmentationNetwork:
    """Build the trainable network for `config` on frozen features, not yet initialized.

    The network takes the last layer of the backbone, if that is trained. `processes` that train
    together synchronize their codebooks. Raises UsageError if the bottleneck is too wide, vectors have
    no neighbours to share a code with, or torch would make parameters of another type.
    """
    if (dtype := torch.get_default_dtype()) != torch.float32:
        raise UsageError(f"torch's default dtype is {dtype}: set it back to torch.float32.")
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
    step = TrainingStep(config.training.batch_size * processes * codes, processes, codes)
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


@torch.no_grad()
def initialize_network(network: SegmentationNetwork, batches: Batches, seed: int) -> None:
    """Fit the normalizer, the projections and the codebooks of a network as built, in place.

    `batches` are trunk states of training images in random order, on the network's device, and masks
    `[B, h, w]` of the vectors that count; they are read until `POOL_VECTORS` are pooled. `seed` decides
    the pool's order, and k-means.
    """
    was_training = network.training
    network.eval()
    pool, read = _pool_features(network, batches, seed)
    network.normalizer.fit_and_normalize_(pool)
    if network.projection is not None:
        axes, variances = principal_axes(pool, network.projection.out_channels)
        scale = variances.mean().clamp_min(1e-12).sqrt()
        network.projection.weight[: len(axes)] = (axes / scale)[:, :, None, None]
        nn.init.zeros_(network.projection.get_parameter("bias"))
        pool = F.linear(pool, network.projection.weight[:, :, 0, 0])
    if network.blocks is not None:
        start_at_principal_axes(network.blocks.project_in, network.blocks.project_out, pool)
        pool = _pool_blocks(network, network.blocks, read, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.quantizer.initialize(pool)
    network.train(was_training)


def _pool_features(
    network: SegmentationNetwork, batches: Batches, seed: int
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Return the backbone's features, not normalized, as shuffled rows `[n, C]`; and the batches that
    were read, if the network has blocks of vectors."""
    rows: list[Tensor] = []
    read: list[tuple[Tensor, Tensor]] = []
    count = 0
    for state, counted in batches:
        maps = network.backbone_features(state)  # the normalizer is still the identity
        rows.append(maps.permute(0, 2, 3, 1)[counted])
        count += len(rows[-1])
        if network.blocks is not None:
            read.append((state, counted))
        if count >= POOL_VECTORS:
            break
    return _shuffled(rows, seed), read


def _pool_blocks(
    network: SegmentationNetwork, blocks: Blocks, batches: Batches, seed: int
) -> Tensor:
    """Return the quantizer's inputs, for blocks in which a vector counts, as shuffled rows."""
    rows = []
    for state, counted in batches:
        counting = blocks.gather(counted[:, None].float()).amax(dim=1) > 0
        rows.append(network.tokens(network.features(state))[counting])
    return _shuffled(rows, seed)


def _shuffled(rows: Sequence[Tensor], seed: int) -> Tensor:
    """Return the first rows, at most `POOL_VECTORS`, in random order."""
    count = min(sum(map(len, rows)), POOL_VECTORS)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return torch.cat(list(rows))[order.to(rows[0].device)]
