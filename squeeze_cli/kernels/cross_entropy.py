"""Cross-entropy of bilinearly upsampled logits: loss, predictions and gradient in one pass.

At full resolution, most of a small head's step is memory traffic: log-probabilities, their gradients
and the index of the largest logit are each as large as the logits, 21 planes of 224 × 224 per image.
The kernel computes the planes of one or two images at a time, turns them into probabilities in place,
and these into the gradient with respect to the small map, while they are in the processor's cache.
The plain reference is `SegmentationLoss.forward` (losses/segmentation.py).
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# The product of this and the smallest difference between two float32 logits exceeds any rank.
_STEEP = 1e30
# float32 can sum powers of two from 2^-100 to 1 without subtracting the largest exponent first.
_SAFE_BITS = 100.0
# Number of elements of the buffer of planes (10 MB): a larger one does not fit the cache, a smaller
# one spends more time on calls than on arithmetic.
_ELEMENTS_AT_ONCE = 2_500_000
# Upsampling rounds by far less than this share of the largest logit.
_ROUNDING = 1e-5


def upsampled_cross_entropy(
    maps: Tensor, target: Tensor, pixel_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the weighted mean of -log p over the pixels, and the predicted classes.

    Args:
        maps: logits `[B, K, h, w]`, float32, before bilinear upsampling; K up to 255.
        target: `[B, H, W]` int64, 0 to K - 1, also for pixels of weight 0.
        pixel_weights: `[B, H, W]`, 0 for pixels that do not count.

    The loss can be differentiated once with respect to `maps`. The predictions `[B, H, W]` uint8 are
    the indices of the largest upsampled logits, the first of equal ones.
    """
    loss, predictions = _UpsampledCrossEntropy.apply(maps, target, pixel_weights)
    return loss, predictions


class _UpsampledCrossEntropy(torch.autograd.Function):
    """The kernel; it computes the gradient in the forward pass, from the same probabilities.

    Logits are converted to base 2 while they are small, because 2^x takes a third of the time of e^x.
    One buffer serves all planes, because new memory would cost more than the arithmetic.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, target: Tensor, pixel_weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        size = (target.shape[1], target.shape[2])
        rows = _interpolation_matrix(maps.shape[2], size[0], maps.dtype)
        columns = _interpolation_matrix(maps.shape[3], size[1], maps.dtype)
        weights = pixel_weights / pixel_weights.sum().clamp_min(torch.finfo(maps.dtype).tiny)
        # The largest logit of each position becomes 0, so upsampled logits are at most 0.
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
            # The largest logit keeps its rank, all others become very negative. Comparing and masking
            # takes several times as long, `max` with indices twenty times.
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
        # NaN logits have no largest one; class 0 stands for it.
        predictions = (contenders - best_ranks).nan_to_num_(nan=0.0).to(torch.uint8)
        ctx.mark_non_differentiable(predictions)
        return loss, predictions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor, _: Any) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * d_loss, None, None


def _contenders(bits: Tensor) -> tuple[int, bool]:
    """Return the number of leading classes that can have the largest logit at some pixel, and whether
    2^x can be summed without subtracting the largest exponent.

    A class that is below another one at every position of an image is below it at every pixel,
    because interpolation weights are positive. Heads may have outputs for classes that do not occur
    in masks; these soon fall below all others.
    """
    count = bits.shape[1]
    lowest = bits.amin(dim=(2, 3))
    steady = lowest.argmax(dim=1)  # for each image, the class whose minimum is largest
    ahead = bits - bits[torch.arange(len(bits)), steady][:, None]
    margin = _ROUNDING * float(lowest.amin().neg())
    behind = (ahead.amax(dim=(2, 3)) < -margin).all(dim=0)
    contenders = [k for k, never in enumerate(behind.tolist()) if not never]
    return contenders[-1] + 1 if contenders else count, float(lowest.amin()) > -_SAFE_BITS


@lru_cache(maxsize=32)
def _interpolation_matrix(old: int, new: int, dtype: torch.dtype) -> Tensor:
    """Return the matrix `[new, old]` of bilinear interpolation along one axis.

    Interpolation is linear and separable: an upsampled map is `R x Cᵀ`. The columns are torch's
    interpolations of the unit vectors.
    """
    with torch.inference_mode(False), torch.no_grad():
        units = torch.eye(old, dtype=torch.float64)[None]
        matrix = F.interpolate(units, size=new, mode="linear", align_corners=False)[0].T
        return matrix.to(dtype).contiguous()
