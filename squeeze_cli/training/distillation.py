"""Distillation: a network on codes learns the predictions of a baseline on the same features."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from squeeze_cli.backbones.base import FeatureOrigin
from squeeze_cli.config.resolve import load_experiment
from squeeze_cli.config.schema import ExperimentConfig, option_of
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.model.build import build_network
from squeeze_cli.model.network import SegmentationNetwork
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.checkpoints import load_best
from squeeze_cli.training.experiment import make_module

# A teacher's predictions are for these features and classes.
_SHARED = (
    "model.backbone", "model.layer", "model.num_classes", "data.image_size", "data.fit",
    "data.classes",
)  # fmt: skip


class Distillation:
    """The loss KL(teacher ‖ student) of predictions on the feature grid (Hinton et al., 2015,
    arXiv:1503.02531), times `weight`."""

    def __init__(self, teacher: SegmentationNetwork, weight: float) -> None:
        self.teacher = teacher
        self.weight = weight

    def __call__(self, states: Tensor, logits: Tensor) -> Tensor:
        """Return the loss of the student's logits `[B, K, h, w]`, a mean over positions."""
        with torch.no_grad():
            taught = self.teacher.to(logits.device)(states).logits
        divergence = F.kl_div(
            logits.float().log_softmax(dim=1),
            taught.float().log_softmax(dim=1),
            reduction="none",
            log_target=True,
        )
        return self.weight * divergence.sum(dim=1).mean()


def load_distillation(config: ExperimentConfig, origin: FeatureOrigin) -> Distillation | None:
    """Load the baseline that `config.model.distill` names; None where it names none.

    Raises SqueezeError where there is no such finished run, and UsageError where it is of other
    features or classes.
    """
    if config.model.distill is None:
        return None
    run = RunFolder(Path(config.model.distill))
    described = run.read_finished().model
    teacher = load_experiment(run.config_file)
    for key in _SHARED:
        section, _, name = key.partition(".")
        own, other = (getattr(getattr(c, section), name) for c in (config, teacher))
        if own != other:
            raise UsageError(f"--distill {run.path}: its {option_of(key)} is {other}, not {own}.")
    if described.weights_digest != origin.digest:
        raise UsageError(f"--distill {run.path}: its backbone has other weights.")
    if described.unfreeze_last_layer or not teacher.model.has_head:
        raise SqueezeError(f"--distill {run.path}: give a `squeeze baseline` of frozen features.")
    with torch.random.fork_rng(devices=[]):
        module = make_module(teacher, build_network(teacher, origin))
    load_best(module, run)
    assert module.network.head is not None
    module.network.head.expects_raw_features = described.head_expects_raw_features
    return Distillation(module.network.eval().requires_grad_(False), config.model.distill_weight)
