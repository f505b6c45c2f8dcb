"""Initialization of the network by normalization, PCA and k-means on pooled training features."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from squeeze_cli.model.layers import Blocks
from squeeze_cli.model.network import SegmentationNetwork
from squeeze_cli.quantizers.projection import principal_axes, start_at_principal_axes

POOL_VECTORS = 65536
Batches = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def initialize_network(network: SegmentationNetwork, batches: Batches, seed: int) -> None:
    """Fit the normalizer, the projections and the codebooks in place.

    Args:
        network: Network as built.
        batches: Trunk states of training images in random order, on the network's device, and masks
            `[B, h, w]` of the vectors that count. They are read until `POOL_VECTORS` are pooled.
        seed: Seed of the pool's order, and of k-means.
    """
    was_training = network.training
    network.eval()
    pool, read = _pool_features(network, batches, seed)
    network.normalizer.fit_and_normalize_(pool)
    if network.projection is not None:
        axes, variances = principal_axes(pool, network.projection.out_channels)
        scale = variances.mean().clamp_min(1e-12).sqrt()
        network.projection.weight[: len(axes)] = (axes / scale)[:, :, None, None]
        torch.nn.init.zeros_(network.projection.get_parameter("bias"))
        pool = torch.nn.functional.linear(pool, network.projection.weight[:, :, 0, 0])
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
