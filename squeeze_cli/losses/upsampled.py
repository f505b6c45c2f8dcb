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

from squeeze_cli.heads.upsampling import upsample_bilinear, upsample_bilinear_backward

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
    step works in one of two buffers: fresh ones of this size would cost more than the arithmetic.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, target: Tensor, pixel_weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        tiny = torch.finfo(maps.dtype).tiny
        weights = pixel_weights / pixel_weights.sum().clamp_min(tiny)
        need_gradient = ctx.needs_input_grad[0]
        loss = maps.new_zeros(())
        predictions = torch.empty(target.shape, dtype=torch.uint8, device=maps.device)
        gradients = torch.empty_like(maps, memory_format=torch.contiguous_format)
        logits = maps.new_empty(maps.shape[1], *target.shape[1:])
        spare = torch.empty_like(logits)
        maps = maps / math.log(2)
        for i, (classes, weight) in enumerate(zip(target, weights, strict=True)):
            upsample_bilinear(maps[i], (classes.shape[0], classes.shape[1]), out=logits)
            below = logits.sub_(logits.amax(dim=0))  # 0 for the highest
            predictions[i] = _first_highest(below, spare)
            at_target = below.gather(0, classes[None])[0]
            exponentials = below.exp2_()
            total = exponentials.sum(dim=0)
            loss += ((total.log2() - at_target) * weight).sum()
            if need_gradient:
                gradient = exponentials.mul_(weight / total)  # weight × probability
                gradient.scatter_add_(0, classes[None], -weight[None])
                gradients[i] = upsample_bilinear_backward(gradient, (maps.shape[2], maps.shape[3]))
        if need_gradient:
            ctx.save_for_backward(gradients)
        ctx.mark_non_differentiable(predictions)
        return loss * math.log(2), predictions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor, _: Any) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * d_loss, None, None


def _first_highest(below: Tensor, spare: Tensor) -> Tensor:
    """The first class `[H, W]` at 0, of `below` `[K, H, W]` of 0 and less.

    The largest of (K - class), which all that is below 0 falls far short of: comparing and masking
    take several times as long, `max` with its indices twenty times. `spare` is overwritten.
    """
    count = len(below)
    ranks = torch.arange(count, 0, -1, dtype=below.dtype, device=below.device)
    torch.add(ranks[:, None, None], below, alpha=_STEEP, out=spare)
    first = count - spare.amax(dim=0)
    return first.nan_to_num_(nan=0.0)  # where logits are NaN none is the highest
