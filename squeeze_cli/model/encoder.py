"""Layers before the codes that look at neighbouring vectors."""

from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN_CHANNELS = 128
BLOCKS = 2


class ConvEncoder(nn.Module):
    """A residual path over the feature map, x + up(blocks(down(x))), before the quantizer.

    The codes of a vector may then depend on its neighbours. `up` starts at zero, so the encoder starts
    as the identity, and PCA and k-means of the quantizer hold. The decoder does not know it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, HIDDEN_CHANNELS, kernel_size=1)
        self.blocks = nn.Sequential(*(_Block(HIDDEN_CHANNELS) for _ in range(BLOCKS)))
        self.up = nn.Conv2d(HIDDEN_CHANNELS, channels, kernel_size=1)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.get_parameter("bias"))

    def forward(self, maps: Tensor) -> Tensor:
        """Encode maps `[B, C, h, w]`."""
        encoded: Tensor = maps + self.up(self.blocks(self.down(maps)))
        return encoded


class _Block(nn.Module):
    """A depthwise 5×5 convolution and two pointwise ones (as ConvNeXt, arXiv:2201.03545), residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel_size=5, padding=2, groups=channels)
        self.widen = nn.Conv2d(channels, 2 * channels, kernel_size=1)
        self.narrow = nn.Conv2d(2 * channels, channels, kernel_size=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Map `[B, C, h, w]`."""
        mapped: Tensor = maps + self.narrow(F.gelu(self.widen(self.depthwise(maps))))
        return mapped
