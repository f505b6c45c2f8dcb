"""Distillation: the loss that compares a student's logits with those of a baseline, its teacher."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from squeeze_cli.config.fields import value_of
from squeeze_cli.config.record import RunRecord
from squeeze_cli.config.schema import option_of
from squeeze_cli.console import Reporter
from squeeze_cli.data.sources import known_classes
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.model.network import SegmentationNetwork
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.experiment import Experiment, load_trained

# Settings that teacher and student must share, so that their features and outputs correspond.
_SHARED = (
    "model.backbone", "model.layer", "model.num_classes", "data.image_size", "data.fit",
)  # fmt: skip


def distillation_loss(
    teacher: SegmentationNetwork, weight: float, states: Tensor, logits: Tensor
) -> Tensor:
    """Return `weight` · KL(teacher ‖ student) of the student's logits `[B, K, h, w]`, a mean over
    positions (Hinton et al., 2015, arXiv:1503.02531)."""
    with torch.no_grad():
        target = teacher.to(logits.device)(states).logits
    student, wanted = (each.float().log_softmax(dim=1) for each in (logits, target))
    divergence = F.kl_div(student, wanted, reduction="none", log_target=True)
    return weight * divergence.sum(dim=1).mean()


def add_teacher(experiment: Experiment, begun: RunRecord | None) -> None:
    """Add the baseline of `--distill`, if there is one, to the module as its teacher.

    `begun` is the record of a run that is resumed. Raises SqueezeError if the baseline is not
    finished, or not the teacher of the resumed run, and UsageError for other features or classes.
    """
    config, module = experiment.config, experiment.module
    if config.model.distill is None:
        return
    run = RunFolder(Path(config.model.distill))
    record, teacher = run.open_finished()
    if (
        record.quantizer.code_sizes
        or record.model.unfreeze_last_layer
        or not teacher.model.has_head
    ):
        raise UsageError(f"--distill {run.path}: give a `squeeze baseline` of frozen features.")
    for key in _SHARED:
        own, other = (value_of(each, key) for each in (config, teacher))
        if own != other:
            raise UsageError(f"--distill {run.path}: its {option_of(key)} is {other}, not {own}.")
    if record.model.weights_digest != experiment.backbone.digest:
        raise UsageError(f"--distill {run.path}: its backbone has other weights.")
    tables = (experiment.classes, known_classes(teacher.data))
    names, teacher_names = (table.names if table else [] for table in tables)
    if names != teacher_names:
        raise UsageError(
            f"--distill {run.path}: its classes are {', '.join(teacher_names)}, those of the data are "
            f"{', '.join(names)}: give a baseline of the same classes, in the same order."
        )
    network = load_trained(run, record, teacher, experiment.backbone).network
    module.teacher_digest = network.digest()
    known = begun.model.teacher_digest if begun and begun.model else None
    if known not in (None, module.teacher_digest):
        raise SqueezeError(
            f"--distill {run.path} is not the baseline that this run began with: restore that one, "
            "or start again with --overwrite."
        )
    module.distillation = partial(
        distillation_loss, network.requires_grad_(False), config.model.distill_weight
    )


def check_taught_images(experiment: Experiment, reporter: Reporter) -> None:
    """Check on which images the teacher, if there is one, was trained; the data module must be set up.

    Raises UsageError if they may include test images, and warns if they may include validation images.
    """
    if experiment.config.model.distill is None:
        return
    run, splits = RunFolder(Path(experiment.config.model.distill)), experiment.splits
    teacher_data = run.read_finished().data
    if teacher_data.test_digest != splits.digest("test"):
        raise UsageError(
            f"--distill {run.path}: its test images differ, so it may have been trained on those of "
            "this run: give a baseline of the same data, --subset-size and, where the seed draws the "
            "test split, --seed."
        )
    if teacher_data.digest != splits.digest():
        reporter.warn(
            f"--distill {run.path} was trained on another split of these data, so it may have been "
            "trained on validation images of this run: give a baseline of the same --seed."
        )
