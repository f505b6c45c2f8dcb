from __future__ import annotations

import pytest
import torch

from squeeze_cli.config import ModelConfig
from squeeze_cli.losses import LOSSES, create_loss
from squeeze_cli.training.modules import BaselineSegmentationModule


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_step_in_bf16_is_nearly_the_same_with_every_loss(
    module: BaselineSegmentationModule, name: str
) -> None:
    torch.manual_seed(0)
    module.loss = create_loss(ModelConfig(loss_type=name))
    masks = torch.randint(0, 3, (2, 16, 16), dtype=torch.uint8)
    masks[0, :2] = 255
    batch = torch.randn(2, 4, 4, 4), masks, torch.arange(2)
    losses, gradients = [], []
    for half in (False, True):
        module.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = module.training_step(batch, 0)
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.dtype == torch.float32
        losses.append(float(loss.detach()))
        gradients.append(module.network.head.last.weight.grad.clone())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.1, atol=0.01)
