"""Cross-entropy of upsampled logits in one pass: loss, predictions and gradient, few images at once.

At full resolution most of a small head's step is memory traffic: log-probabilities, their
gradients and the index of the largest logit are each as large as the logits, 21 planes of
224 × 224 an image. Here one or two images' planes are made once, turned into probabilities where
they are, and from those into the gradient, before the next ones': the same sums, in the processor's
cache.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from squeeze_cli.kernels.upsampling import interpolation_matrices

# Times the least difference between two float32 logits that are not nearly 0, it is past any rank.
_STEEP = 1e30
# Powers of two from 2^-100 to 1 can be summed in float32 as they are.
_SAFE_BITS = 100.0
# Numbers of some images' planes, 10 MB: what more the caches cannot hold takes longer, and with
# less the calls take longer than what they do.
_ELEMENTS_AT_ONCE = 2_500_000
# Of the largest logit: far more than upsampling rounds by.
_ROUNDING = 1e-5


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
    loss, predictions = _UpsampledCrossEntropy.apply(maps, target, pixel_weights)
    return loss, predictions


class _UpsampledCrossEntropy(torch.autograd.Function):
    """Makes the gradient in the forward pass: it needs the probabilities that are there then.

    Logits are taken to base 2 while they are small: 2^x takes a third of the time of e^x. The
    planes are worked on in one buffer: fresh ones would cost more than the arithmetic. What is one
    plane an image is left for the whole batch.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, target: Tensor, pixel_weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        size = (target.shape[1], target.shape[2])
        rows, columns = interpolation_matrices(maps, size)
        weights = pixel_weights / pixel_weights.sum().clamp_min(torch.finfo(maps.dtype).tiny)
        # Each position's highest is 0: so upsampled logits are at most 0.
        bits = (maps - maps.amax(dim=1, keepdim=True)) / math.log(2)
        contenders, safe = _contenders(bits)
        wide = bits @ columns.T  # [B, K, h, W]
        wide_gradients = torch.empty_like(wide)
        ranks = torch.arange(contenders, 0, -1, dtype=maps.dtype, device=maps.device)
        images = max(1, _ELEMENTS_AT_ONCE // (maps.shape[1] * size[0] * size[1]))
        planes = maps.new_empty(min(images, len(maps)), maps.shape[1], *size)
        highest, best_ranks, at_target, totals = maps.new_empty(4, *target.shape)
        for begin in range(0, len(maps), images):
            some = slice(begin, begin + images)
            classes, weight = target[some, None], weights[some]
            logits = torch.matmul(rows, wide[some], out=planes[: len(weight)])
            leading = logits[:, :contenders]
            torch.amax(leading, dim=1, out=highest[some])
            # Of the ranks the highest where the logit is: all others fall far short. Comparing and
            # masking take several times as long, `max` with its indices twenty times.
            short = ranks[:, None, None].add(leading - highest[some, None], alpha=_STEEP)
            torch.amax(short, dim=1, out=best_ranks[some])
            if not safe:
                logits.sub_(highest[some, None])
            torch.gather(logits, 1, classes, out=at_target[some, None])
            exponentials = logits.exp2_()
            torch.sum(exponentials, dim=1, out=totals[some])
            if ctx.needs_input_grad[0]:
                # weight × probability
                gradient = exponentials.mul_((weight / totals[some])[:, None])
                gradient.scatter_add_(1, classes, -weight[:, None])
                torch.matmul(rows.T, gradient, out=wide_gradients[some])
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(wide_gradients @ columns)
        loss = ((totals.log2() - at_target) * weights).sum() * math.log(2)
        # Where logits are NaN no rank is the highest.
        predictions = (contenders - best_ranks).nan_to_num_(nan=0.0).to(torch.uint8)
        ctx.mark_non_differentiable(predictions)
        return loss, predictions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor, _: Any) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * d_loss, None, None


def _contenders(bits: Tensor) -> tuple[int, bool]:
    """How many of the first classes can have the highest logit at some pixel, and whether 2^x can
    be summed without taking the highest off first.

    A class that is below another one at every position of an image is below it at every pixel, as
    the weights of an interpolation are positive. Heads have outputs for classes that masks do not,
    and these are soon below all others. Other devices than the CPU would have to wait for this.
    """
    count = bits.shape[1]
    if bits.device.type != "cpu":
        return count, False
    lowest = bits.amin(dim=(2, 3))
    steady = lowest.argmax(dim=1)  # of an image: the class that falls least
    ahead = bits - bits[torch.arange(len(bits)), steady][:, None]
    margin = _ROUNDING * float(lowest.amin().neg())
    behind = (ahead.amax(dim=(2, 3)) < -margin).all(dim=0)
    contenders = [k for k, never in enumerate(behind.tolist()) if not never]
    return contenders[-1] + 1 if contenders else count, float(lowest.amin()) > -_SAFE_BITS
