"""The start of a training: normalization, PCA and k-means from pooled training features."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from squeeze_cli.model.network import SegmentationNetwork
from squeeze_cli.quantizers.base import principal_axes

POOL_VECTORS = 65536


@torch.no_grad()
def initialize_network(
    network: SegmentationNetwork,
    states: Iterable[Tensor],
    images: int,
    batch_size: int,
    seed: int,
) -> None:
    """Fit everything that is fitted before the first step, on the device where the network is.

    Args:
        network: as built; its normalizer, projection and quantizer are set in place.
        states: batches of trunk states of training images, in random order; read until
            `POOL_VECTORS` vectors are pooled.
        images: how many images there are states of, at least one.
        batch_size: images a training step, which sets the scale of the codes' use.
        seed: for the pool's order and k-means' first choice.
    """
    was_training = network.training
    network.eval()
    device = network.normalizer.mean.device
    generator = torch.Generator().manual_seed(seed)
    pool, tokens_per_image = _pool_features(network, states, images, device, generator)
    network.normalizer.fit_and_normalize_(pool)
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
    network: SegmentationNetwork,
    states: Iterable[Tensor],
    images: int,
    device: torch.device,
    generator: torch.Generator,
) -> tuple[Tensor, int]:
    """Features of the backbone (not normalized) as shuffled rows `[n, C]`, and vectors an image.

    Each batch goes straight to its rows' places: the pool can be half a gigabyte, and to clear and
    map that much memory takes longer than all that is computed from it.
    """
    pool = places = None
    filled = tokens_per_image = 0
    for state in states:
        maps = network.backbone_features(state.to(device))  # the normalizer is the identity yet
        rows = maps.permute(0, 2, 3, 1).flatten(0, 2)
        if pool is None or places is None:
            tokens_per_image = maps.shape[2] * maps.shape[3]
            pool = rows.new_empty(min(POOL_VECTORS, images * tokens_per_image), rows.shape[1])
            places = torch.randperm(len(pool), generator=generator).to(device)
        rows = rows[: len(pool) - filled]
        pool[places[filled : filled + len(rows)]] = rows
        filled += len(rows)
        if filled == len(pool):
            return pool, tokens_per_image
    raise ValueError(f"The states of {images} images were promised, but fewer came.")
