"""The start of a training: normalization, PCA and k-means from pooled training features."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from squeeze_cli.quantizers.base import principal_axes
from squeeze_cli.training.network import SegmentationNetwork

POOL_VECTORS = 65536


@torch.no_grad()
def initialize_network(
    network: SegmentationNetwork, states: Iterable[Tensor], batch_size: int, seed: int
) -> None:
    """Fit everything that is fitted before the first step, on the device where the network is.

    Args:
        network: as built; its normalizer, projection and quantizer are set in place.
        states: batches of trunk states of training images, in random order; read until
            `POOL_VECTORS` vectors are pooled.
        batch_size: images a training step, which sets the scale of the codes' use.
        seed: for the pool's order and k-means' first choice.
    """
    was_training = network.training
    network.eval()
    device = network.normalizer.mean.device
    pool, tokens_per_image = _pool_features(network, states, device)
    generator = torch.Generator().manual_seed(seed)
    pool = pool[torch.randperm(len(pool), generator=generator).to(device)]
    network.normalizer.fit(pool)
    pool.sub_(network.normalizer.mean).div_(network.normalizer.std)  # of half a gigabyte: in place
    if network.projection is not None:
        axes, variances = principal_axes(pool, network.projection.out_channels)
        scale = variances.mean().clamp_min(1e-12).sqrt()
        network.projection.weight[: len(axes)] = (axes / scale)[:, :, None, None]
        torch.nn.init.zeros_(network.projection.get_parameter("bias"))
        pool = torch.nn.functional.linear(pool, network.projection.weight[:, :, 0, 0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.quantizer.initialize(pool, tokens_per_image * batch_size)
    network.train(was_training)


def _pool_features(
    network: SegmentationNetwork, states: Iterable[Tensor], device: torch.device
) -> tuple[Tensor, int]:
    """Features of the backbone (not normalized) as rows `[n, C]`, and vectors an image."""
    rows: list[Tensor] = []
    count = tokens_per_image = 0
    for state in states:
        maps = network.backbone_features(state.to(device))  # the normalizer is the identity yet
        tokens_per_image = maps.shape[2] * maps.shape[3]
        rows.append(maps.permute(0, 2, 3, 1).flatten(0, 2))
        count += len(rows[-1])
        if count >= POOL_VECTORS:
            break
    return torch.cat(rows)[:POOL_VECTORS], tokens_per_image
