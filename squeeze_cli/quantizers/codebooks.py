"""Learned codebooks that stay in use: k-means before fit, and dead codes replaced during it.

The library's modules hold the codebooks and their moving averages, and replace dead codes. What is
done to every vector in every step is done here, with the same outcome: the library makes tables of
distances and of one-hot codes, vectors × codes large, where a product and two sums by code do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from vector_quantize_pytorch import VectorQuantize

KMEANS_ITERATIONS = 20
KMEANS_VECTORS_PER_CODE = 128
# Vectors whose products with all codes fit the processor's cache.
NEAREST_CHUNK = 2048
# A code is dead when its moving average of uses a step falls below this share of an even one.
DEAD_SHARE = 0.05


@torch.no_grad()
def initialize_codebook(layer: VectorQuantize, vectors_nd: Tensor, tokens_per_batch: int) -> None:
    """Start a codebook from k-means on pooled vectors `[n, d]`, and its moving averages with it.

    The library would do this by itself on the first batch that it sees, in eval mode too: that may
    be a validation batch, and has fewer vectors than codes on a coarse grid.
    """
    codebook = layer._codebook
    pool = vectors_nd[: KMEANS_VECTORS_PER_CODE * layer.codebook_size]
    means, counts = kmeans(pool, layer.codebook_size)
    # Counted in the whole pool here, in a step by the moving averages.
    share = counts * (tokens_per_batch / len(pool))
    codebook.cluster_size.copy_(share[None])
    codebook.embed_avg.copy_((means * share[:, None])[None])
    codebook.update_ema()
    codebook.initted.fill_(True)
    set_dead_code_threshold(layer, tokens_per_batch)


def kmeans(vectors_nd: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from random vectors: means `[count, d]`, and how many each is the mean of.

    The library's own gives the same in four times as long: it makes a table of all distances, where
    the product of vectors and means tells the nearest. A mean that loses all its vectors stays.
    """
    n = len(vectors_nd)
    chosen = torch.randperm(n)[:count] if n >= count else torch.randint(0, n, (count,))
    means = vectors_nd[chosen.to(vectors_nd.device)]
    counts = means.new_zeros(count)
    before = None
    for _ in range(KMEANS_ITERATIONS):
        nearest = nearest_codes(vectors_nd, means)
        if before is not None and torch.equal(nearest, before):
            break
        before = nearest
        counts = torch.bincount(nearest, minlength=count).to(means.dtype)
        sums = torch.zeros_like(means).index_add_(0, nearest, vectors_nd)
        means = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], means)
    return means, counts


def nearest_codes(vectors_nd: Tensor, codebook_kd: Tensor) -> Tensor:
    """The index `[n]` of the code nearest to each vector; the lower of two as near."""
    # |v - c|² = |v|² - 2 (v·c - |c|²/2), of which |v|² is the same for all codes.
    half_squares = codebook_kd.square().sum(dim=1) / 2
    return torch.cat(
        [  # `argmax` finds the same in two and a half times as long
            torch.addmm(half_squares, chunk, codebook_kd.T, beta=-1).max(dim=1).indices
            for chunk in torch.split(vectors_nd, NEAREST_CHUNK)
        ]
    )


def train_codebook(layer: VectorQuantize, vectors_bnd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `layer(vectors)` gives and does in training mode.

    Returns:
        The code vectors `[B, N, D]`, with gradients by the rotation trick; codes `[B, N]` int64; and
        the commitment loss, weighted.
    """
    codebook, shape = layer._codebook, vectors_bnd.shape
    set_dead_code_threshold(layer, shape[0] * shape[1])
    rows = vectors_bnd.detach().reshape(-1, shape[2])
    codes = nearest_codes(rows, layer.codebook)
    chosen = layer.codebook[codes].view(shape)
    _follow(codebook, rows, codes)
    loss = F.mse_loss(vectors_bnd, chosen) * layer.commitment_weight
    rotated: Tensor = _RotationTrick.apply(vectors_bnd, chosen)
    return rotated, codes.view(shape[:2]), loss


@torch.no_grad()
def _follow(codebook: Any, rows_nd: Tensor, codes_n: Tensor) -> None:
    """Move the averages and the codebook towards the vectors that chose each code."""
    averages = codebook.embed_avg[0]
    counts = torch.bincount(codes_n, minlength=len(averages)).to(averages.dtype)
    sums = torch.zeros_like(averages).index_add_(0, codes_n, rows_nd.to(averages.dtype))
    codebook.cluster_size[0].lerp_(counts, 1 - codebook.decay)
    averages.lerp_(sums, 1 - codebook.decay)
    codebook.update_ema()
    codebook.expire_codes_(rows_nd[None])


class _RotationTrick(torch.autograd.Function):
    """Fifty et al., 2024, arXiv:2410.06424, section 4.2.

    The chosen vector q is the vector e rotated and rescaled; the gradient goes back through that
    rotation R, held constant: Rᵀ g = g - 2 (g·w) w + 2 (g·q̂) ê, with w along ê + q̂.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, chosen: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, chosen)
        return chosen.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        vectors, chosen = ctx.saved_tensors
        length, target = (x.norm(dim=-1, keepdim=True).clamp_min(1e-6) for x in (vectors, chosen))
        e, q = vectors / length, chosen / target
        w = F.normalize(e + q, dim=-1, eps=1e-6)
        across = (gradient * w).sum(dim=-1, keepdim=True) * w
        along = (gradient * q).sum(dim=-1, keepdim=True) * e
        return (gradient + 2 * (along - across)) * (target / length), None


def set_dead_code_threshold(layer: VectorQuantize, tokens_per_batch: int) -> None:
    """Scale the library's threshold, which counts uses a step, to the size of the steps."""
    codebook = layer._codebook
    codebook.threshold_ema_dead_code = DEAD_SHARE * tokens_per_batch / layer.codebook_size
    # A replaced code starts with an even share, so that it is not judged dead again at once.
    codebook.reset_cluster_size = tokens_per_batch / layer.codebook_size
