"""Cross-entropy of upsampled logits in one pass: loss, predictions and gradient, image by image.

At full resolution most of a small head's step is memory traffic: log-probabilities, their
gradients and the index of the largest logit are each as large as the logits, 21 planes of
224 × 224 an image. Here an image's planes are made once, turned into probabilities where they are,
and from those into the gradient, before the next image's: the same sums, in the processor's cache.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from squeeze_cli.heads.upsampling import interpolation_matrices

# Times the least difference between two float32 logits that are not nearly 0, it is past any rank.
_STEEP = 1e30


def upsampled_cross_entropy(
    maps: Tensor, target: Tensor, pixel_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted mean of -log p over the pixels, and the class that each pixel is given.

    Args:
        maps: logits `[B, K, h, w]`, float32, before bilinear upsampling; K up to 255.
        target: `[B, H, W]` int64, 0 to K - 1 also where a pixel's weight is 0.
        pixel_weights: `[B, H, W]`, 0 for pixels that do not count.

    Returns:
        The loss (scalar, differentiable once, in `maps` alone), and the index of the largest
        upsampled logit `[B, H, W]` uint8, the first of equals.
    """
    # Products in half precision would make the probabilities and their sum disagree.
    with torch.autocast(maps.device.type, enabled=False):
        loss, predictions = _UpsampledCrossEntropy.apply(maps, target, pixel_weights)
    return loss, predictions


class _UpsampledCrossEntropy(torch.autograd.Function):
    """Makes the gradient in the forward pass: it needs the probabilities that are there then.

    Logits are taken to base 2 while they are small: 2^x takes a third of the time of e^x. Each
    image's planes are worked on in two buffers: fresh ones would cost more than the arithmetic.
    What is one plane an image is left for the whole batch.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, target: Tensor, pixel_weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        count, size = maps.shape[1], (target.shape[1], target.shape[2])
        rows, columns = interpolation_matrices(maps, size)
        weights = pixel_weights / pixel_weights.sum().clamp_min(torch.finfo(maps.dtype).tiny)
        wide = (maps / math.log(2)) @ columns.T  # [B, K, h, W]
        wide_gradients = torch.empty_like(wide)
        ranks = torch.arange(count, 0, -1, dtype=maps.dtype, device=maps.device)[:, None, None]
        logits, spare = maps.new_empty(2, count, *size)
        best_ranks, at_target, totals = maps.new_empty(3, *target.shape)
        for i, (classes, weight) in enumerate(zip(target, weights, strict=True)):
            torch.matmul(rows, wide[i], out=logits)
            below = logits.sub_(logits.amax(dim=0))  # 0 for the highest
            # Of the ranks K to 1 the highest at 0: all others fall far short. Comparing and masking
            # take several times as long, `max` with its indices twenty times.
            torch.add(ranks, below, alpha=_STEEP, out=spare)
            torch.amax(spare, dim=0, out=best_ranks[i])
            torch.gather(below, 0, classes[None], out=at_target[i : i + 1])
            exponentials = below.exp2_()
            torch.sum(exponentials, dim=0, out=totals[i])
            if ctx.needs_input_grad[0]:
                gradient = exponentials.mul_(weight / totals[i])  # weight × probability
                gradient.scatter_add_(0, classes[None], -weight[None])
                torch.matmul(rows.T, gradient, out=wide_gradients[i])
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(wide_gradients @ columns)
        loss = ((totals.log2() - at_target) * weights).sum() * math.log(2)
        # Where logits are NaN no rank is the highest.
        predictions = (count - best_ranks).nan_to_num_(nan=0.0).to(torch.uint8)
        ctx.mark_non_differentiable(predictions)
        return loss, predictions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor, _: Any) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * d_loss, None, None
