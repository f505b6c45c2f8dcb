"""Residual layers over feature maps, before the quantizer."""

from torch import Tensor, nn
from torch.nn import functional as F

ADAPTER_REDUCTION = 4
ENCODER_CHANNELS = 128
ENCODER_BLOCKS = 2


class ResidualPath(nn.Module):
    """A residual path x + up(middle(down(x))), where `down` and `up` are 1×1 convolutions.

    The middle is ReLU, as in adapters (Houlsby et al., 2019, arXiv:1902.00751), or `blocks` of wider
    convolutions, through which a vector's codes may depend on its neighbours. `up` starts at zero, so
    the path starts as the identity. The decoder has no counterpart of it.
    """

    def __init__(self, channels: int, hidden: int, blocks: int = 0) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, hidden, kernel_size=1)
        middle = [_Block(hidden) for _ in range(blocks)]
        self.blocks = nn.Sequential(*middle) if middle else nn.ReLU()
        self.up = nn.Conv2d(hidden, channels, kernel_size=1)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.get_parameter("bias"))

    def forward(self, maps: Tensor) -> Tensor:
        """Map features `[B, C, h, w]` to the same shape."""
        mapped: Tensor = maps + self.up(self.blocks(self.down(maps)))
        return mapped


class _Block(nn.Module):
    """A residual block of a depthwise 5×5 and two 1×1 convolutions (as ConvNeXt, arXiv:2201.03545)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel_size=5, padding=2, groups=channels)
        self.widen = nn.Conv2d(channels, 2 * channels, kernel_size=1)
        self.narrow = nn.Conv2d(2 * channels, channels, kernel_size=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Map `[B, C, h, w]`."""
        mapped: Tensor = maps + self.narrow(F.gelu(self.widen(self.depthwise(maps))))
        return mapped
