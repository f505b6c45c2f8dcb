"""Learned codebooks that stay in use: k-means before fit, and dead codes replaced during it."""

from __future__ import annotations

import torch
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

KMEANS_ITERATIONS = 20
KMEANS_VECTORS_PER_CODE = 128
# A code is dead when its moving average of uses a step falls below this share of an even one.
DEAD_SHARE = 0.05


@torch.no_grad()
def initialize_codebook(layer: VectorQuantize, vectors_nd: Tensor, tokens_per_batch: int) -> None:
    """Run the library's k-means on pooled vectors `[n, d]` and set the codebook's averages by it.

    The library would do this by itself on the first batch that it sees, in eval mode too: that may
    be a validation batch, and has fewer vectors than codes on a coarse grid.
    """
    codebook = layer._codebook
    limit = KMEANS_VECTORS_PER_CODE * layer.codebook_size
    codebook.kmeans_iters = KMEANS_ITERATIONS
    codebook.initted.fill_(False)
    codebook.init_embed_(vectors_nd[None, :limit])
    # k-means counts uses in the whole pool, the moving averages count them in a step.
    share = tokens_per_batch / min(limit, len(vectors_nd))
    codebook.cluster_size.mul_(share)
    codebook.embed_avg.mul_(share)
    set_dead_code_threshold(layer, tokens_per_batch)


def set_dead_code_threshold(layer: VectorQuantize, tokens_per_batch: int) -> None:
    """Scale the library's threshold, which counts uses a step, to the size of the steps."""
    codebook = layer._codebook
    codebook.threshold_ema_dead_code = DEAD_SHARE * tokens_per_batch / layer.codebook_size
    # A replaced code starts with an even share, so that it is not judged dead again at once.
    codebook.reset_cluster_size = tokens_per_batch / layer.codebook_size
