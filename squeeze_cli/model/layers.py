"""Layers between features and quantizer: residual paths, and blocks of vectors."""

from torch import Tensor, nn
from torch.nn import functional as F

from squeeze_cli.config.fields import Size
from squeeze_cli.kernels.folding import AffineMap

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


def on_grid(rows_bnc: Tensor, grid: Size) -> Tensor:
    """Arrange vectors `[B, h·w, c]`, row by row, as maps `[B, c, h, w]` on the `grid`."""
    return rows_bnc.view(len(rows_bnc), *grid, rows_bnc.shape[2]).permute(0, 3, 1, 2)


class Blocks(nn.Module):
    """Blocks of N x N vectors before and after a quantizer, to which a block is a token; `--code-stride`.

        features [B, C, h, w] --project_in--> [B, D, h, w] --gather--> blocks [B, D·N², ⌈h/N⌉, ⌈w/N⌉]
        code vectors --quantizer's output map--> blocks --scatter--> [B, D, h, w] --output_map--> features

    If N does not divide the map, its last row and column are repeated, and cropped after decoding.
    The last map of the decoder is linear, so that a head can fold it. C is `channels`, D is `width`, and
    N is `stride`.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.project_in = nn.Linear(channels, width)
        self.project_out = nn.Linear(width, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the blocks of features `[B, C, h, w]`."""
        narrow = AffineMap(self.project_in.weight, self.project_in.bias)
        return self.gather(narrow.map_channels(maps))

    def gather(self, maps: Tensor) -> Tensor:
        """Return the blocks of maps `[B, D, h, w]`."""
        down, right = (-side % self.stride for side in maps.shape[-2:])
        padded = F.pad(maps, (0, right, 0, down), mode="replicate")
        return F.pixel_unshuffle(padded, self.stride)

    def scatter(self, tokens_bnc: Tensor, grid: Size) -> Tensor:
        """Return the maps `[B, D, h, w]` on `grid` of blocks `[B, n, D·N²]`, row by row."""
        blocks = on_grid(tokens_bnc, self.grid(grid))
        return F.pixel_shuffle(blocks, self.stride)[..., : grid[0], : grid[1]]

    def grid(self, grid: Size) -> Size:
        """Return rows and columns of the blocks of a map with the rows and columns `grid`."""
        rows, columns = (-(-side // self.stride) for side in grid)
        return rows, columns

    def output_map(self) -> AffineMap:
        """Return the linear map from vectors of blocks to features, differentiable."""
        return AffineMap(self.project_out.weight, self.project_out.bias)
