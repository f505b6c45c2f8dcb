"""Whitened code dimensions, for the implicit codebooks of fsq and lfq."""

import torch
from torch import Tensor, distributed, nn

from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.kernels.folding import AffineMap
from squeeze_cli.quantizers.base import TrainingStep
from squeeze_cli.quantizers.projection import ProjectedQuantizer, principal_axes

WHITENING_MOMENTUM = 0.05
# Share of the mean variance that is added to each variance, so that small batches stay regular.
WHITENING_SHRINKAGE = 1e-3


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
        self, config: QuantizerConfig, feature_dim: int, step: TrainingStep, code_dim: int
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
