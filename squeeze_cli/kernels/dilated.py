"""3×3 dilated convolutions without the taps that meet only padding.

On a map of h × w positions, a tap at distance r reaches outside the map for r rows (and columns),
where it meets zeros. DeepLab's dilations of 12, 24 and 36 on its 28 × 28 map spend 49 %, 82 % and
89 % of their multiplications on zeros. Here each of the nine taps is one matrix product over the
positions that it reaches: the same sum without the zeros.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def dilated_convolution(maps: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Convolve like `F.conv2d(maps, weight, padding=dilation, dilation=dilation)`.

    Args:
        maps: `[B, C, h, w]`.
        weight: `[O, C, 3, 3]`.
        dilation: distance between the taps, in positions.

    Returns:
        `[B, O, h, w]` in channels-last memory.
    """
    x = maps.permute(0, 2, 3, 1)
    taps = weight.permute(2, 3, 0, 1).contiguous().unbind()
    rows, columns = (_reaches(size, dilation) for size in x.shape[1:3])
    out = F.linear(x, taps[1][1])
    for i, rows_out, rows_in in rows:
        for j, columns_out, columns_in in columns:
            if (i, j) != (1, 1):
                reached = F.linear(x[:, rows_in, columns_in], taps[i][j])
                out[:, rows_out, columns_out] += reached
    return out.permute(0, 3, 1, 2)


def _reaches(size: int, dilation: int) -> list[tuple[int, slice, slice]]:
    """List the taps 0, 1, 2 along an axis with the output and input positions that each connects."""
    distances = [(tap, (tap - 1) * dilation) for tap in range(3)]
    return [
        (tap, slice(max(0, -d), size - max(0, d)), slice(max(0, d), size + min(0, d)))
        for tap, d in distances
        if abs(d) < size
    ]
