"""Everything behind the frozen trunk as one plain torch module.

    state --last_layer?--> --normalize--> --adapter?--> --projection?--> features [B, C, h, w]
          --quantizer--> code vectors, codes --fold into--> head --> logits [B, K, h, w]

The state is what the frozen trunk gives, from the feature store or on the fly: the features
themselves, or with `--unfreeze-last-layer` what comes before the last layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor, nn

from squeeze_cli.heads.base import SegmentationHead
from squeeze_cli.quantizers.base import AffineMap, Quantizer
from squeeze_cli.quantizers.identity import IdentityQuantizer


@dataclass(frozen=True)
class NetworkOutput:
    """Logits `[B, K, h, w]`, codes `[B, N, Q]` (N = h·w, row by row) and the quantizer's loss."""

    logits: Tensor
    codes: Tensor
    quantizer_loss: Tensor


class FeatureNormalizer(nn.Module):
    """Each channel to zero mean and unit variance over the training features; fixed, invertible."""

    mean: Tensor
    std: Tensor

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("std", torch.ones(feature_dim))

    @torch.no_grad()
    def fit_and_normalize_(self, tokens_nc: Tensor) -> None:
        """Take mean and deviation from tokens `[n, C]`, and normalize them in place.

        A channel that never moves keeps scale 1.
        """
        self.mean.copy_(tokens_nc.mean(dim=0))
        tokens_nc.sub_(self.mean)
        squares = torch.stack([part.square().sum(dim=0) for part in torch.split(tokens_nc, 4096)])
        std = (squares.sum(dim=0) / max(1, len(tokens_nc) - 1)).sqrt()
        self.std.copy_(torch.where(std > 1e-6 * std.max(), std, torch.ones_like(std)))
        tokens_nc.div_(self.std)

    def forward(self, features: Tensor) -> Tensor:
        """Normalize `[B, C, h, w]`."""
        # Two passes over the largest maps there are: the second in place.
        return (features - self.mean[:, None, None]).div_(self.std[:, None, None])

    def inverse(self) -> AffineMap:
        """From normalized features back to those of the backbone, as a map by channel."""
        return AffineMap(torch.diag(self.std), self.mean)


class SegmentationNetwork(nn.Module):
    """Quantized features to logits; `quantizer` may be the identity (baseline, `none`).

    Args:
        normalizer: for the backbone's channels.
        quantizer: for features after adapter and projection.
        head: for the same number of channels.
        last_layer: the backbone's last layer where it is trained, else None.
        adapter: residual adapter, or None.
        projection: 1×1 convolution to `--feature-dim` channels, or None.
        fold: whether to fold project_out into the head; off only to compare.
    """

    def __init__(
        self,
        normalizer: FeatureNormalizer,
        quantizer: Quantizer,
        head: SegmentationHead,
        *,
        last_layer: nn.Module | None = None,
        adapter: nn.Module | None = None,
        projection: nn.Conv2d | None = None,
        fold: bool = True,
    ) -> None:
        super().__init__()
        self.last_layer = last_layer
        self.normalizer = normalizer
        self.adapter = adapter
        self.projection = projection
        self.quantizer = quantizer
        self.head = head
        self.fold = fold

    def backbone_features(self, state: Tensor) -> Tensor:
        """The backbone's features `[B, C, h, w]`, normalized, before adapter and projection."""
        if self.last_layer is not None:
            state = self.last_layer(state)
        normalized: Tensor = self.normalizer(state)
        return normalized

    def features(self, state: Tensor) -> Tensor:
        """What the quantizer sees, as a map `[B, C, h, w]`."""
        maps = self.backbone_features(state)
        if self.adapter is not None:
            maps = self.adapter(maps)
        if self.projection is not None:
            maps = self.projection(maps)
        return maps

    def forward(self, state: Tensor) -> NetworkOutput:
        """Logits and codes of a trunk's state."""
        maps = self.features(state)
        tokens = maps.permute(0, 2, 3, 1).flatten(1, 2)
        # The nearest code must not depend on the precision that the head computes in.
        with torch.autocast(tokens.device.type, enabled=False):
            vectors, codes, loss = self.quantizer.quantize(tokens.float())
        return NetworkOutput(self._logits(vectors, maps.shape[-2:]), codes, loss)

    def codes(self, maps: Tensor) -> Tensor:
        """Codes `[B, h, w, Q]` int64 of the features `[B, C, h, w]` that the quantizer sees."""
        b, _, rows, columns = maps.shape
        tokens = maps.permute(0, 2, 3, 1).flatten(1, 2)
        return self.quantizer.quantize(tokens.float())[1].view(b, rows, columns, -1)

    def digest(self) -> str:
        """Sixteen hex digits of all weights: codes belong to the network with the same ones."""
        content = blake2b(digest_size=8)
        for name, tensor in sorted(self.state_dict().items()):
            content.update(name.encode())
            content.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return content.hexdigest()

    def logits_of_codes(self, codes_bnq: Tensor, grid: tuple[int, int]) -> Tensor:
        """Logits `[B, K, h, w]` from codes alone: no image, no backbone."""
        return self._logits(self.quantizer.lookup(codes_bnq), grid)

    def _logits(self, vectors_bnd: Tensor, grid: tuple[int, int] | torch.Size) -> Tensor:
        b, _, d = vectors_bnd.shape
        vectors = vectors_bnd.view(b, *grid, d).permute(0, 3, 1, 2)
        if isinstance(self.quantizer, IdentityQuantizer):
            logits: Tensor = self.head(self._as_head_expects(vectors))
            return logits
        output_map = self.quantizer.output_map()
        if self.head.expects_raw_features:
            std, mean = self.normalizer.std, self.normalizer.mean
            output_map = AffineMap(output_map.weight * std[:, None], output_map.bias * std + mean)
        if self.fold:
            return self.head.forward_folded(vectors, output_map)
        features = output_map(vectors.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(features)  # type: ignore[no-any-return]

    def _as_head_expects(self, normalized: Tensor) -> Tensor:
        if not self.head.expects_raw_features:
            return normalized
        std, mean = self.normalizer.std, self.normalizer.mean
        return normalized * std[:, None, None] + mean[:, None, None]
