"""One contract over every registered loss."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from squeeze_cli.config.defaults import IGNORE_INDEX
from squeeze_cli.config.parts import LOSSES
from squeeze_cli.config.schema import ModelConfig
from squeeze_cli.losses import create_loss
from squeeze_cli.losses.segmentation import SegmentationLoss, sum_parts

B, K, H, W = 2, 4, 5, 7


SEGMENTATION = [name for name in LOSSES if ModelConfig(loss_type=name).has_head]


@pytest.fixture(params=SEGMENTATION)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(B, K, H, W, generator=generator)
    return logits, torch.randint(0, 3, (B, H, W), generator=generator)


def value_of(loss: SegmentationLoss, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return sum_parts(loss.parts(logits.log_softmax(dim=1), target))


def perfect(target: torch.Tensor) -> torch.Tensor:
    return 50.0 * F.one_hot(target, K).permute(0, 3, 1, 2).float()


def test_perfect_predictions_cost_nothing_and_wrong_ones_do(name: str) -> None:
    loss = create_loss(ModelConfig(loss_type=name))
    _, target = example()
    assert value_of(loss, perfect(target), target) < 1e-4
    assert value_of(loss, perfect((target + 1) % 3), target) > 0.5


def test_ignored_pixels_count_nowhere(name: str) -> None:
    loss = create_loss(ModelConfig(loss_type=name))
    logits, target = example()
    target[:, :2] = IGNORE_INDEX
    changed = logits.clone().requires_grad_()
    with torch.no_grad():
        changed[:, :, :2] += 10 * torch.randn(B, K, 2, W)
    value = value_of(loss, changed, target)
    assert torch.allclose(value, value_of(loss, logits, target))
    value.backward()
    assert changed.grad is not None
    assert changed.grad[:, :, :2].abs().max() == 0
    assert changed.grad[:, :, 2:].abs().max() > 0


def test_a_target_of_ignored_pixels_alone_costs_nothing(name: str) -> None:
    loss = create_loss(ModelConfig(loss_type=name))
    logits, target = example()
    value = value_of(loss, logits.requires_grad_(), torch.full_like(target, IGNORE_INDEX))
    value.backward()
    assert value == 0
    assert torch.isfinite(logits.grad).all()


def test_class_weights_count_and_reach_fewer_classes_than_outputs(name: str) -> None:
    logits, target = example()
    even = value_of(create_loss(ModelConfig(loss_type=name)), logits, target)
    weighted = create_loss(ModelConfig(loss_type=name, class_weights=(1.0, 1.0, 9.0)))
    assert not torch.allclose(value_of(weighted, logits, target), even)
    same = create_loss(ModelConfig(loss_type=name, class_weights=(2.0, 2.0, 2.0)))
    assert torch.allclose(value_of(same, logits, target), even)


def test_gradient_is_right(name: str) -> None:
    loss = create_loss(ModelConfig(loss_type=name, class_weights=(1.0, 2.0, 3.0))).double()
    logits, target = example()
    target[0, 0, 0] = IGNORE_INDEX
    small = logits[:1, :, :2, :3].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: value_of(loss, x, target[:1, :2, :3]), small)


def test_parts_sum_to_the_loss(name: str) -> None:
    loss = create_loss(ModelConfig(loss_type=name))
    logits, target = example()
    parts = loss.parts(logits.log_softmax(1), target)
    assert torch.allclose(sum(parts.values()), value_of(loss, logits, target))  # type: ignore[arg-type]
    assert set(parts) == ({"ce", "dice", "focal"} if name == "combined" else {name})


def test_combined_weighs_its_parts() -> None:
    logits, target = example()
    combined = value_of(create_loss(ModelConfig(loss_type="combined")), logits, target)
    ce, dice, focal = (
        value_of(create_loss(ModelConfig(loss_type=n)), logits, target)
        for n in ("ce", "dice", "focal")
    )
    assert torch.allclose(combined, ce + dice + 0.5 * focal)


def test_cross_entropy_is_torchs() -> None:
    logits, target = example()
    target[1, :, 3] = IGNORE_INDEX
    weights = torch.tensor([1.0, 3.0, 0.5, 1.0])
    loss = create_loss(ModelConfig(loss_type="ce", class_weights=(1.0, 3.0, 0.5)))
    ours = value_of(loss, logits, target)
    assert torch.allclose(ours, F.cross_entropy(logits, target, weights, ignore_index=IGNORE_INDEX))


def test_focal_with_gamma_zero_is_cross_entropy() -> None:
    logits, target = example()
    loss = create_loss(ModelConfig(loss_type="focal"))
    assert value_of(loss, logits, target) < F.cross_entropy(logits, target)
    loss.gamma = 0.0
    assert torch.allclose(value_of(loss, logits, target), F.cross_entropy(logits, target))


@pytest.mark.parametrize("weights", [None, (1.0, 3.0, 0.5)])
@pytest.mark.parametrize(
    ("spread", "last_class"),
    [(1.0, 0.0), (1.0, -9.0), (1.0, 9.0), (80.0, 0.0)],
    ids=["alike", "last never", "last always", "far apart"],
)
def test_of_maps_it_is_the_same_as_of_their_upsampled_logits(
    name: str, weights: tuple[float, ...] | None, spread: float, last_class: float
) -> None:
    loss = create_loss(ModelConfig(loss_type=name, class_weights=weights))
    maps = example()[0] * spread
    maps[:, -1] += last_class
    maps.requires_grad_()
    target = torch.randint(0, 3, (B, 17, 23), generator=torch.Generator().manual_seed(1))
    target[0, :4] = IGNORE_INDEX
    parts, predictions = loss(maps, target.to(torch.uint8))
    logits = F.interpolate(maps, (17, 23), mode="bilinear", align_corners=False)
    expected = loss.parts(logits.log_softmax(dim=1), target)
    assert parts.keys() == expected.keys()
    assert torch.equal(predictions.long(), logits.argmax(dim=1))
    scale = 3.0  # the gradient must follow what comes after the loss
    for ours, theirs in zip(parts.values(), expected.values(), strict=True):
        torch.testing.assert_close(ours, theirs)
        (a,) = torch.autograd.grad(scale * ours, maps, retain_graph=True)
        (b,) = torch.autograd.grad(scale * theirs, maps, retain_graph=True)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_of_maps_ignored_pixels_alone_cost_nothing_and_equals_go_to_the_first(name: str) -> None:
    loss = create_loss(ModelConfig(loss_type=name))
    maps = torch.zeros(B, K, H, W, requires_grad=True)
    parts, predictions = loss(maps, torch.full((B, 11, 13), IGNORE_INDEX))
    total = sum(parts.values())
    assert total == 0
    (gradient,) = torch.autograd.grad(total, maps)
    assert torch.equal(gradient, torch.zeros_like(maps))
    assert predictions.max() == 0


def test_of_diverged_maps_predictions_stay_classes(name: str) -> None:
    loss = create_loss(ModelConfig(loss_type=name))
    _, predictions = loss(
        torch.full((B, K, H, W), float("nan")), torch.zeros(B, 11, 13, dtype=torch.int64)
    )
    assert 0 <= int(predictions.min()) <= int(predictions.max()) < K
