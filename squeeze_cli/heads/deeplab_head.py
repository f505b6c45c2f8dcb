"""torchvision's DeepLabHead (Chen et al., 2017, arXiv:1706.05587) on features or code vectors."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import ASPP, DeepLabHead

from squeeze_cli.heads.base import SegmentationHead
from squeeze_cli.kernels.dilation import centre_tap, convolve_dilated, meets_little
from squeeze_cli.kernels.folding import AffineMap, append_ones, fold

_FIRST_LAYER = "0.convs.0.0.weight"


class DeepLabSegmentationHead(SegmentationHead):
    """torchvision's DeepLabHead: atrous spatial pyramid pooling, a 3×3 and a 1×1 convolution.

    The layers and their names are torchvision's. The forward pass differs only in the pyramid's first
    convolutions: `project_out` can be folded into them, and a CPU leaves out products with padding
    where a dilation is nearly as large as the map (`kernels/dilation.py`).

    Args:
        feature_dim: Channels of the features.
        num_classes: Outputs.
        pretrained: Weights by torchvision's names; those whose shapes differ are ignored.
        use_kernels: Whether a CPU may leave out products with padding.
    """

    def __init__(
        self, feature_dim: int, num_classes: int, pretrained: dict[str, Tensor] | None = None,
        use_kernels: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.use_kernels = use_kernels
        self.layers: nn.Sequential = DeepLabHead(feature_dim, num_classes)
        self.layers.to(memory_format=torch.channels_last)  # for `fold`
        own = self.layers.state_dict()
        fitting = {
            k: v for k, v in (pretrained or {}).items() if k in own and own[k].shape == v.shape
        }
        self.layers.load_state_dict(own | fitting)
        self.expects_raw_features = _FIRST_LAYER in fitting

    def forward(self, maps: Tensor, output_map: AffineMap | None = None) -> Tensor:
        """Compute logits of features, or of code vectors; see `SegmentationHead.forward`."""
        if output_map is not None:
            maps = append_ones(maps)
        pyramid = self.layers[0]
        assert isinstance(pyramid, ASPP)
        *convolutions, pooling = pyramid.convs
        branches = []
        for conv, norm, relu in convolutions:
            branches.append(relu(norm(self._convolve(conv, maps, output_map))))
        pool, conv, norm, relu = pooling
        pooled = relu(norm(self._convolve(conv, pool(maps), output_map)))
        constant = pooled.expand(-1, -1, *maps.shape[-2:])  # bilinear from one position
        branches.append(constant.contiguous(memory_format=torch.channels_last))  # like the others
        hidden: Tensor = pyramid.project(torch.cat(branches, dim=1))
        for layer in list(self.layers)[1:]:
            hidden = layer(hidden)
        return hidden

    def _convolve(self, conv: nn.Conv2d, maps: Tensor, output_map: AffineMap | None) -> Tensor:
        """Convolve features, or with `output_map` the channels that `append_ones` gives."""
        weight, padding, dilation = conv.weight, conv.padding[0], conv.dilation[0]
        size = (maps.shape[2], maps.shape[3])
        on_cpu = self.use_kernels and maps.device.type == "cpu" and weight.shape[-1] == 3
        if on_cpu and meets_little(size, dilation):
            if output_map is None and not torch.is_autocast_enabled("cpu"):
                return convolve_dilated(maps, weight, dilation)
            if dilation >= max(size):
                weight, padding, dilation = centre_tap(weight), 0, 1
        if output_map is not None:
            weight = fold(weight, output_map)
        return F.conv2d(maps, weight, None, conv.stride, padding, dilation)
