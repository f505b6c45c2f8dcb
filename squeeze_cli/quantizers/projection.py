"""Linear bottlenecks that start from principal axes."""

import torch
from torch import Tensor, nn

from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.kernels.folding import AffineMap
from squeeze_cli.quantizers.base import Quantizer, TrainingStep
from squeeze_cli.quantizers.rate import RateModel

# The covariance of `principal_axes` takes at most this many multiplications: 17,000 vectors of 2,048
# channels, or all pooled vectors of narrower backbones.
PCA_MULTIPLICATIONS = 7e10


class ProjectedQuantizer(Quantizer):
    """A quantizer behind a linear bottleneck: `project_in` C → D and `project_out` D → C."""

    def __init__(self, config: QuantizerConfig, feature_dim: int, step: TrainingStep) -> None:
        super().__init__(config, feature_dim, step)
        self.bottleneck_dim = config.bottleneck_dim
        self.project_in = nn.Linear(feature_dim, self.bottleneck_dim)
        self.project_out = nn.Linear(self.bottleneck_dim, feature_dim)

    def code_input(self, tokens_bnc: Tensor) -> Tensor:
        """Return the bottleneck's vectors `[B, N, D]`."""
        projected: Tensor = self.project_in(tokens_bnc)
        return projected

    def code_vectors(self) -> list[Tensor]:
        """Look up the vectors `[K, d]` of all values of the only code, if it stands for vectors."""
        device = self.project_in.weight.device
        codes = [torch.arange(size, device=device)[None, :, None] for size in self.counted_sizes]
        return [self.lookup(each)[0] for each in codes]

    def rate_model(self) -> nn.Module:
        """Return a model that predicts codes from neighbouring code vectors."""
        return RateModel(self.code_sizes, self.code_vectors()[0].shape[1])

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of `project_in`."""
        return list(self.project_in.parameters())

    def output_map(self) -> AffineMap:
        """Return `project_out`: the code vectors lie in the bottleneck."""
        return AffineMap(self.project_out.weight, self.project_out.bias)

    def initialize(self, tokens_nc: Tensor) -> None:
        """Set the projections to the principal axes of tokens `[n, C]`."""
        start_at_principal_axes(self.project_in, self.project_out, tokens_nc)


@torch.no_grad()
def start_at_principal_axes(
    project_in: nn.Linear, project_out: nn.Linear, tokens_nc: Tensor
) -> None:
    """Set `project_in`, with or without bias, to the principal axes of tokens `[n, C]`, and
    `project_out` to their inverse.

    The bottleneck between them then preserves as much variance as a linear one can. It is scaled so
    that its components have unit variance on average: the codebook's initial scale and the commitment
    loss mean the same for every backbone.
    """
    mean = tokens_nc.mean(dim=0)
    axes_dc, variances_d = principal_axes(tokens_nc, project_in.out_features)
    kept = len(axes_dc)
    scale = variances_d.mean().clamp_min(1e-12).sqrt()
    coded_mean = axes_dc @ mean
    project_in.weight[:kept] = axes_dc / scale
    project_out.weight.zero_()
    project_out.weight[:, :kept] = axes_dc.T * scale
    project_out.bias.copy_(mean)
    bias: Tensor | None = project_in.bias
    if bias is None:
        project_out.bias.sub_(axes_dc.T @ coded_mean)
    else:
        bias[:kept] = -coded_mean / scale


def principal_axes(rows_nc: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Compute the leading principal axes `[k, C]` of rows `[n, C]` and their variances `[k]`.

    k is the least of `count`, C and n - 1 (at least 1). Only the first rows are used, as many as
    `PCA_MULTIPLICATIONS` allows; they come shuffled. The sign of each axis makes its largest entry
    positive, so that the result does not depend on the solver.
    """
    used = rows_nc[: max(2, int(PCA_MULTIPLICATIONS / rows_nc.shape[1] ** 2))]
    centred_nc = used - used.mean(dim=0)
    kept = max(1, min(count, centred_nc.shape[1], len(centred_nc) - 1))
    covariance = (centred_nc.T @ centred_nc / max(1, len(centred_nc) - 1)).cpu()
    if kept > len(covariance) // 8:  # small axes need more than float32
        covariance = covariance.double()
    values, vectors = torch.linalg.eigh(covariance)
    axes = vectors[:, -kept:].flip(1).T
    leading = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    axes = axes * torch.where(leading < 0, -1.0, 1.0)
    return axes.to(centred_nc), values[-kept:].flip(0).clamp_min(0).to(centred_nc)
