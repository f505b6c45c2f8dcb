"""The part behind the frozen trunk as one plain torch module.

    state --last_layer?--> --normalize--> --adapter?--> --projection?--> features [B, C, h, w]
          --encoder?--> --blocks?--> --quantizer--> code vectors, codes
          --blocks?--> --head (project_out folded in)--> logits [B, K, h, w]

The state is the frozen trunk's output, from the feature store or computed on the fly: the features
themselves, or with `--unfreeze-last-layer` the input of the last layer.
"""

from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor, nn

from squeeze_cli.config.fields import Size
from squeeze_cli.errors import SqueezeError
from squeeze_cli.heads.base import SegmentationHead
from squeeze_cli.kernels.folding import AffineMap
from squeeze_cli.model.layers import Blocks, on_grid
from squeeze_cli.quantizers.base import Coded, Quantized, Quantizer
from squeeze_cli.quantizers.dct import from_frequencies, to_frequencies


@dataclass(frozen=True)
class Segmented(Quantized):
    """Quantized features, and logits `[B, K, h, w]` computed from their code vectors."""

    logits: Tensor


class FeatureNormalizer(nn.Module):
    """A fixed map of each channel to zero mean and unit variance over the training features."""

    mean: Tensor
    std: Tensor

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("std", torch.ones(feature_dim))

    @torch.no_grad()
    def fit_and_normalize_(self, tokens_nc: Tensor) -> None:
        """Set mean and standard deviation from tokens `[n, C]`, and normalize the tokens in place.

        A constant channel keeps scale 1. Raises SqueezeError if a variance exceeds float32.
        """
        self.mean.copy_(tokens_nc.mean(dim=0))
        tokens_nc.sub_(self.mean)
        std = tokens_nc.norm(dim=0) / max(1, len(tokens_nc) - 1) ** 0.5
        if not std.isfinite().all():
            raise SqueezeError(
                f"The features are too large, up to {float(tokens_nc.abs().max()):.0e}: scale them to "
                "values around 1, or use other --weights."
            )
        self.std.copy_(torch.where(std > 1e-6 * std.max(), std, torch.ones_like(std)))
        tokens_nc.div_(self.std)

    def forward(self, features: Tensor) -> Tensor:
        """Normalize `[B, C, h, w]`."""
        return (features - self.mean[:, None, None]).div_(self.std[:, None, None])

    def inverse(self, normalized: Tensor) -> Tensor:
        """Undo the normalization of `[B, C, h, w]`."""
        return normalized * self.std[:, None, None] + self.mean[:, None, None]


class SegmentationNetwork(nn.Module):
    """Network from the states of the frozen trunk to codes, decoded features and logits.

    Args:
        normalizer: Normalization of the backbone's channels.
        quantizer: Quantizer of the tokens behind all layers below; the identity for baselines.
        head: Head for features after adapter and projection; None for reconstruction alone.
        last_layer: The backbone's last layer, if it is trained.
        adapter: Residual adapter.
        projection: 1×1 convolution to `--feature-dim` channels.
        encoder: Layers between these features and the quantizer; they keep the shape `[B, C, h, w]`.
        blocks: Blocks of neighbouring vectors that share a code.
        use_kernels: Whether to fold `project_out` into the head (`kernels/folding.py`).
    """

    def __init__(
        self, normalizer: FeatureNormalizer, quantizer: Quantizer, head: SegmentationHead | None, *,
        last_layer: nn.Module | None = None, adapter: nn.Module | None = None,
        projection: nn.Conv2d | None = None, encoder: nn.Module | None = None,
        blocks: Blocks | None = None, use_kernels: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.last_layer = last_layer or nn.Identity()
        self.normalizer = normalizer
        self.adapter = adapter or nn.Identity()
        self.projection = projection
        self.encoder = encoder or nn.Identity()
        self.blocks = blocks
        self.quantizer = quantizer
        self.head = head
        self.use_kernels = use_kernels

    def backbone_features(self, state: Tensor) -> Tensor:
        """Return the backbone's normalized features `[B, C, h, w]`, before adapter and projection."""
        normalized: Tensor = self.normalizer(self.last_layer(state))
        return normalized

    def features(self, state: Tensor) -> Tensor:
        """Return the features to be quantized, `[B, C, h, w]`, after adapter and projection."""
        maps: Tensor = self.adapter(self.backbone_features(state))
        if self.projection is not None:
            maps = self.projection(maps)
        return maps

    def forward(self, state: Tensor) -> Segmented:
        """Quantize a trunk's state and compute its logits."""
        quantized = self.quantize(self.features(state))
        logits = self.logits(quantized.vectors, grid_of(quantized.features))
        return Segmented(**vars(quantized), logits=logits)

    def quantize(self, maps: Tensor) -> Quantized:
        """Quantize features `[B, C, h, w]`."""
        # The choice of codes must not depend on the precision of the head.
        with torch.autocast(maps.device.type, enabled=False):
            maps = maps.float()
            tokens = self.tokens(maps)
            coded: Coded = self.quantizer(tokens.flatten(1, 2))
            return Quantized(maps, *coded, grid_of(tokens, 1))

    def tokens(self, maps: Tensor) -> Tensor:
        """Return the quantizer's input `[B, rows, columns, channels]` for features `[B, C, h, w]`."""
        encoded: Tensor = self.encoder(maps)
        seen: Tensor = encoded if self.blocks is None else self.blocks(encoded)
        if self.quantizer.on_frequencies:
            seen = to_frequencies(seen)
        return seen.permute(0, 2, 3, 1)

    def code_grid(self, grid: Size) -> Size:
        """Return rows and columns of the codes of features with the rows and columns `grid`."""
        return grid if self.blocks is None else self.blocks.grid(grid)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of linear maps before the codes, which have `--encoder-lr-factor`."""
        blocks = [] if self.blocks is None else self.blocks.project_in.parameters()
        return [*self.quantizer.encoder_parameters(), *blocks]

    def decoded(self, quantized: Quantized) -> Tensor:
        """Return features `[B, C, h, w]` as they are after quantization."""
        return self.decode(quantized.vectors, grid_of(quantized.features))

    def decode(self, vectors_bnd: Tensor, grid: Size) -> Tensor:
        """Return the features `[B, C, h, w]` on `grid` that code vectors decode to."""
        with torch.autocast(vectors_bnd.device.type, enabled=False):
            maps, output_map = self._decode(vectors_bnd, grid)
            return output_map.map_channels(maps)

    def _decode(self, vectors_bnd: Tensor, grid: Size) -> tuple[Tensor, AffineMap]:
        """Return maps `[B, d, h, w]` on `grid` of code vectors, and the linear map to features."""
        output_map = self.quantizer.output_map()
        if self.blocks is None:
            return self.code_maps(vectors_bnd, grid), output_map
        return self.blocks.scatter(output_map(vectors_bnd), grid), self.blocks.output_map()

    def code_maps(self, vectors_bnd: Tensor, grid: Size) -> Tensor:
        """Return code vectors as maps `[B, d, rows, columns]` over the places of the codes' grid."""
        maps = on_grid(vectors_bnd, grid)
        if not self.quantizer.on_frequencies:
            return maps
        with torch.autocast(maps.device.type, enabled=False):
            return from_frequencies(maps)

    def codes(self, maps: Tensor) -> Tensor:
        """Return codes `[B, rows, columns, Q]` int64 of features `[B, C, h, w]`."""
        quantized = self.quantize(maps)
        return on_grid(quantized.codes, quantized.grid).permute(0, 2, 3, 1)

    def digest(self) -> str:
        """Return a digest of all weights, sixteen hex digits, by which a codes file names its network."""
        content = blake2b(digest_size=8)
        for name, tensor in sorted(self.state_dict().items()):
            content.update(name.encode())
            content.update(tensor.detach().cpu().flatten().numpy())
        return content.hexdigest()

    def logits(self, vectors_bnd: Tensor, grid: Size) -> Tensor:
        """Compute logits `[B, K, h, w]` on `grid` from code vectors alone, without image and backbone."""
        assert self.head is not None
        logits: Tensor
        raw = self.head.expects_raw_features
        if not self.quantizer.code_sizes:  # the vectors are the features
            features = on_grid(vectors_bnd, grid)
            logits = self.head(self.normalizer.inverse(features) if raw else features)
            return logits
        vectors, output_map = self._decode(vectors_bnd, grid)
        if raw:
            std, mean = self.normalizer.std, self.normalizer.mean
            output_map = AffineMap(output_map.weight * std[:, None], output_map.bias * std + mean)
        if self.use_kernels:
            logits = self.head(vectors, output_map)
        else:
            logits = self.head(output_map.map_channels(vectors))
        return logits


def grid_of(maps: Tensor, first: int = 2) -> Size:
    """Return rows and columns of maps, whose dimension `first` is the rows."""
    return maps.shape[first], maps.shape[first + 1]
