"""Square blocks of neighbouring vectors that share a code (`--code-stride`)."""

from torch import Tensor, nn
from torch.nn import functional as F

from squeeze_cli.config.sizes import Size
from squeeze_cli.kernels.folding import AffineMap


def on_grid(rows_bnc: Tensor, grid: Size) -> Tensor:
    """Arrange vectors `[B, h·w, c]`, row by row, as maps `[B, c, h, w]` on the `grid`."""
    return rows_bnc.view(len(rows_bnc), *grid, rows_bnc.shape[2]).permute(0, 3, 1, 2)


class Blocks(nn.Module):
    """Blocks of N x N vectors before and after a quantizer, to which a block is one token.

        features [B, C, h, w] --project_in--> [B, D, h, w] --gather--> blocks [B, D·N², ⌈h/N⌉, ⌈w/N⌉]
        code vectors --quantizer's output map--> blocks --scatter--> [B, D, h, w] --output_map--> features

    If N does not divide the map, its last row and column are repeated, and cropped after decoding.
    The last map of the decoder is linear, so that a head can fold it.

    Args:
        channels: Channels C of the features.
        width: Channels D of a vector in a block.
        stride: Vectors N along each side of a block.
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
