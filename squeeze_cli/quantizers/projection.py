"""Linear bottlenecks that start from principal axes, and batch whitening."""

import torch
from torch import Tensor, distributed, nn

from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.kernels.folding import AffineMap
from squeeze_cli.quantizers.base import Quantizer, StepSize
from squeeze_cli.quantizers.rate import RateModel

# The covariance of `principal_axes` takes at most this many multiplications: 17,000 vectors of 2,048
# channels, or all pooled vectors of narrower backbones.
PCA_MULTIPLICATIONS = 7e10
WHITENING_MOMENTUM = 0.05
# Share of the mean variance that is added to each variance, so that small batches stay regular.
WHITENING_SHRINKAGE = 1e-3


class ProjectedQuantizer(Quantizer):
    """A quantizer behind a linear bottleneck: `project_in` C → D and `project_out` D → C."""

    def __init__(self, config: QuantizerConfig, feature_dim: int, step: StepSize) -> None:
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
        return RateModel(self.code_sizes, self.bottleneck_dim)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of `project_in`."""
        return list(self.project_in.parameters())

    def output_map(self) -> AffineMap:
        """Return `project_out`: the code vectors lie in the bottleneck."""
        return AffineMap(self.project_out.weight, self.project_out.bias)

    def initialize(self, tokens_nc: Tensor) -> None:
        """Set the projections to the principal axes of tokens `[n, C]`."""
        start_at_principal_axes(self.project_in, self.project_out, tokens_nc)


class Whitening(nn.Module):
    """Batch whitening: zero mean, unit variance and no correlation (Huang et al., arXiv:1804.08450).

    As BatchNorm, it uses the statistics of the process's batch in training, and running statistics in
    eval mode, which are computed over all processes.
    The map is `L⁻¹ (x - mean)` with the Cholesky factor L of the covariance, which is continuous in x.
    """

    running_mean: Tensor
    running_covariance: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_covariance", torch.eye(dim))

    def track(self, vectors_nd: Tensor, momentum: float) -> tuple[Tensor, Tensor]:
        """Return mean and covariance of vectors `[n, d]`, and update the running statistics."""
        mean = vectors_nd.mean(dim=0)
        centred = vectors_nd - mean
        covariance = centred.T @ centred / len(vectors_nd)
        with torch.no_grad():
            pooled = _over_processes(vectors_nd) or (mean, covariance)
            self.running_mean.lerp_(pooled[0], momentum)
            self.running_covariance.lerp_(pooled[1], momentum)
        return mean, covariance

    def forward(self, vectors_nd: Tensor) -> Tensor:
        """Whiten vectors `[n, d]`."""
        mean, covariance = self.running_mean, self.running_covariance
        if self.training:
            mean, covariance = self.track(vectors_nd, WHITENING_MOMENTUM)
        shrinkage = WHITENING_SHRINKAGE * covariance.diagonal().mean().clamp_min(1e-12)
        identity = torch.eye(len(mean), device=mean.device, dtype=mean.dtype)
        factor = torch.linalg.cholesky(covariance + shrinkage * identity)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        whitened: Tensor = (vectors_nd - mean) @ inverse.T
        return whitened


def _over_processes(vectors_nd: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return mean and covariance of the vectors of all processes, or None in a single process."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    count = vectors_nd.new_tensor([len(vectors_nd)])
    total = vectors_nd.sum(dim=0)
    distributed.all_reduce(count)
    distributed.all_reduce(total)
    mean = total / count
    centred = vectors_nd - mean
    squares = centred.T @ centred
    distributed.all_reduce(squares)
    return mean, squares / count


class WhitenedQuantizer(ProjectedQuantizer):
    """A bottleneck and then d whitened code dimensions, for implicit codebooks.

    FSQ and LFQ have fixed intervals, so they use their codes evenly only if their input is centred,
    scaled and uncorrelated. `Whitening` ensures this while `project_in` is trained.
    """

    def __init__(
        self, config: QuantizerConfig, feature_dim: int, step: StepSize, code_dim: int
    ) -> None:
        super().__init__(config, feature_dim, step)
        self.code_dim = code_dim
        self.to_code = nn.Linear(self.bottleneck_dim, code_dim)
        self.normalize = Whitening(code_dim)
        self.from_code = nn.Linear(code_dim, self.bottleneck_dim)

    def code_input(self, tokens_bnc: Tensor) -> Tensor:
        """Return the whitened code dimensions `[B, N, d]` of tokens `[B, N, C]`."""
        raw: Tensor = self.to_code(self.project_in(tokens_bnc))
        whitened: Tensor = self.normalize(raw.flatten(0, 1))
        return whitened.view_as(raw)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of `project_in` and `to_code`."""
        return [*super().encoder_parameters(), *self.to_code.parameters()]

    def output_map(self) -> AffineMap:
        """Return `project_out ∘ from_code` as one map."""
        weight = self.project_out.weight @ self.from_code.weight
        bias = self.project_out.weight @ self.from_code.bias + self.project_out.bias
        return AffineMap(weight, bias)

    @torch.no_grad()
    def initialize(self, tokens_nc: Tensor) -> None:
        """Set the code dimensions to rotated, whitened leading axes, and the output by least squares.

        The rotation gives each code dimension an equal share of the variance. Without it, the first
        axis would hold most of the information and the last ones would spend bits on noise.
        """
        super().initialize(tokens_nc)
        bottleneck = self.project_in(tokens_nc)
        axes, variances = principal_axes(bottleneck, self.code_dim)
        kept = len(axes)
        whitening = axes / variances.clamp_min(1e-12).sqrt()[:, None]
        rotation = torch.linalg.qr(torch.randn(kept, kept)).Q.to(whitening)
        self.to_code.weight[:kept] = rotation @ whitening
        self.to_code.bias[:kept] = -(self.to_code.weight[:kept] @ bottleneck.mean(dim=0))
        self.normalize.track(self.to_code(bottleneck), momentum=1.0)
        training = self.training
        vectors_nd = self.eval()(tokens_nc[None])[0][0]
        self.train(training)
        # The least-squares map from code vectors to the bottleneck; not every device has float64.
        design = torch.cat([vectors_nd, torch.ones_like(vectors_nd[:, :1])], dim=1).cpu().double()
        ridge = 1e-6 * len(design) * torch.eye(design.shape[1]).double()
        target = design.T @ bottleneck.cpu().double()
        solution = torch.linalg.solve(design.T @ design + ridge, target)
        self.from_code.weight.copy_(solution[:-1].T)
        self.from_code.bias.copy_(solution[-1])


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
