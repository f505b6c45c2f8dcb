"""A trainable residual bottleneck on frozen features (Houlsby et al., 2019, arXiv:1902.00751)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

REDUCTION = 4


class ResidualAdapter(nn.Module):
    """x + up(relu(down(x))), 1×1 convolutions; `up` starts at zero, so the adapter at identity."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        hidden = max(1, feature_dim // REDUCTION)
        self.down = nn.Conv2d(feature_dim, hidden, kernel_size=1)
        self.up = nn.Conv2d(hidden, feature_dim, kernel_size=1)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.get_parameter("bias"))

    def forward(self, features: Tensor) -> Tensor:
        """`[B, C, h, w]` to the same shape."""
        adapted: Tensor = features + self.up(F.relu(self.down(features)))
        return adapted
