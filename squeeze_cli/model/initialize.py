"""The start of a training: normalization, PCA and k-means from pooled training features."""

from collections.abc import Iterable

import torch
from torch import Tensor

from squeeze_cli.model.network import SegmentationNetwork
from squeeze_cli.quantizers.projection import principal_axes

POOL_VECTORS = 65536


@torch.no_grad()
def initialize_network(
    network: SegmentationNetwork, batches: Iterable[tuple[Tensor, Tensor]], seed: int
) -> None:
    """Fit the normalizer, the projections and the codebooks in place.

    Args:
        network: the network, as built.
        batches: trunk states of training images in random order, on the network's device, and which
            of their vectors count, `[B, h, w]` bool; read until `POOL_VECTORS` vectors are pooled.
        seed: for the pool's order and the first choice of k-means.
    """
    was_training = network.training
    network.eval()
    pool = _pool_features(network, batches, seed)
    network.normalizer.fit_and_normalize_(pool)
    if network.projection is not None:
        axes, variances = principal_axes(pool, network.projection.out_channels)
        scale = variances.mean().clamp_min(1e-12).sqrt()
        network.projection.weight[: len(axes)] = (axes / scale)[:, :, None, None]
        torch.nn.init.zeros_(network.projection.get_parameter("bias"))
        pool = torch.nn.functional.linear(pool, network.projection.weight[:, :, 0, 0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.quantizer.initialize(pool)
    network.train(was_training)


def _pool_features(
    network: SegmentationNetwork, batches: Iterable[tuple[Tensor, Tensor]], seed: int
) -> Tensor:
    """Return the backbone's features (not normalized) as shuffled rows `[n, C]`."""
    rows: list[Tensor] = []
    count = 0
    for state, counted in batches:
        maps = network.backbone_features(state)  # the normalizer is still the identity
        rows.append(maps.permute(0, 2, 3, 1)[counted])
        count += len(rows[-1])
        if count >= POOL_VECTORS:
            break
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(min(count, POOL_VECTORS), generator=generator)
    return torch.cat(rows)[order.to(rows[0].device)]
