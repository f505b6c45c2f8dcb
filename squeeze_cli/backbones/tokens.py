"""Parts shared by vision transformers: the check of patches, and the last layer from tokens to a map."""

from torch import Tensor, nn

from squeeze_cli.config.fields import Size, size_text
from squeeze_cli.errors import UsageError


class ViTLastLayer(nn.Module):
    """Last block and final norm of a ViT, from tokens to a map without class and register tokens.

    Args:
        block: the last block.
        norm: the final norm.
        prefix: number of class and register tokens, which stand before the patch tokens.
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
    """Raise UsageError, with the nearest sizes, for an image size that is no multiple of the patches."""
    if any(size % side for size, side in zip(size_px, patch_px, strict=True)):
        lower = [max(1, size // side) * side for size, side in zip(size_px, patch_px, strict=True)]
        upper = [size + side for size, side in zip(lower, patch_px, strict=True)]
        given, below, above = (size_text(sides) for sides in (size_px, lower, upper))
        raise UsageError(
            f"--image-size {given} cannot be cut into the patches of {name}, which have "
            f"{size_text(patch_px)} px: take {below} or {above}."
        )
