"""Cross-entropy of upsampled logits in one pass: loss, predictions and gradient, image by image.

At full resolution most of a small head's step is memory traffic: log-probabilities, their
gradients and the index of the largest logit are each as large as the logits, 21 planes of
224 × 224 an image. Here an image's planes are made once, turned into probabilities where they are,
and from those into the gradient, before the next image's: the same sums, in the processor's cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from squeeze_cli.heads.upsampling import upsample_bilinear, upsample_bilinear_backward


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
    """Makes the gradient in the forward pass: it needs the probabilities that are there then."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, target: Tensor, pixel_weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        tiny = torch.finfo(maps.dtype).tiny
        weights = pixel_weights / pixel_weights.sum().clamp_min(tiny)
        need_gradient = ctx.needs_input_grad[0]
        loss = maps.new_zeros(())
        predictions, gradients = [], []
        for image, classes, weight in zip(maps, target, weights, strict=True):
            logits = upsample_bilinear(image[None], (classes.shape[0], classes.shape[1]))[0]
            highest = logits.amax(dim=0)
            predictions.append(_first_equal(logits, highest))
            at_target = logits.gather(0, classes[None])[0]
            exponentials = logits.sub_(highest).exp_()
            total = exponentials.sum(dim=0)
            loss += ((total.log() + highest - at_target) * weight).sum()
            if need_gradient:
                gradient = exponentials.mul_(weight / total)  # weight × probability
                gradient.scatter_add_(0, classes[None], -weight[None])
                size = (image.shape[1], image.shape[2])
                gradients.append(upsample_bilinear_backward(gradient, size))
        if need_gradient:
            ctx.save_for_backward(torch.stack(gradients))
        given = torch.stack(predictions)
        ctx.mark_non_differentiable(given)
        return loss, given

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor, _: Any) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * d_loss, None, None


def _first_equal(logits: Tensor, highest: Tensor) -> Tensor:
    """The first class `[H, W]` uint8 whose logit is the highest: a third of the time of `max`."""
    count = len(logits)
    ranks = torch.arange(count, 0, -1, dtype=torch.uint8, device=logits.device)
    first = count - ((logits == highest) * ranks[:, None, None]).amax(dim=0)
    return first.clamp_max(count - 1)  # where logits are NaN none is equal
