"""Parts that all vision transformers share: patches that cover the image, tokens that become a map."""

from torch import Tensor, nn

from squeeze_cli.config.sizes import Size, size_text
from squeeze_cli.errors import UsageError


class ViTLastLayer(nn.Module):
    """The last block and the final norm, without class and register tokens, as a map.

    Args:
        block: the block.
        norm: the norm.
        prefix: number of tokens that stand before those of the patches.
        grid: rows and columns of patches.
    """

    def __init__(self, block: nn.Module, norm: nn.Module, prefix: int, grid: Size) -> None:
        super().__init__()
        self.block = block
        self.norm = norm
        self.prefix = prefix
        self.grid = grid

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens `[B, prefix + h·w, C]` to features `[B, C, h, w]`."""
        patches: Tensor = self.norm(self.block(tokens))[:, self.prefix :]
        return patches.transpose(1, 2).reshape(len(tokens), -1, *self.grid)


def check_patches(name: str, patch_px: Size, size_px: Size) -> None:
    """Raise UsageError, with the nearest sizes, for images that patches of a model do not cover."""
    if any(size % side for size, side in zip(size_px, patch_px, strict=True)):
        lower = [max(1, size // side) * side for size, side in zip(size_px, patch_px, strict=True)]
        upper = [size + side for size, side in zip(lower, patch_px, strict=True)]
        given, below, above = (size_text(sides) for sides in (size_px, lower, upper))
        raise UsageError(
            f"--image-size {given} cannot be cut into the patches of {name}, which have "
            f"{size_text(patch_px)} px: take {below} or {above}."
        )
