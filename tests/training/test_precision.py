from __future__ import annotations

import pytest
import torch

from squeeze_cli.config.parts import LOSSES
from squeeze_cli.config.schema import ExperimentConfig, ModelConfig, QuantizerConfig
from squeeze_cli.features.datamodule import Batch
from squeeze_cli.heads.base import ConvolutionalHead
from squeeze_cli.losses import create_loss
from squeeze_cli.model.network import FeatureNormalizer, Quantized, SegmentationNetwork
from squeeze_cli.quantizers import TrainingStep, create_quantizer
from squeeze_cli.training.modules import (
    FeatureModule,
    ReconstructionModule,
    SegmentationModule,
)


def run_step(module: FeatureModule, batch: Batch) -> torch.Tensor:
    """A training step without a trainer, which is what logs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "log_dict", lambda *args, **kwargs: None)
        return module.training_step(batch, 0)


@pytest.mark.parametrize("name", [n for n in LOSSES if ModelConfig(loss_type=n).has_head])
def test_a_step_in_bf16_is_nearly_the_same_with_every_loss(
    module: SegmentationModule, name: str
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
            loss = run_step(module, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.dtype == torch.float32
        losses.append(float(loss.detach()))
        gradients.append(module.network.head.last.weight.grad.clone())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.1, atol=0.01)


def test_codes_do_not_depend_on_the_precision() -> None:
    torch.manual_seed(0)
    config = QuantizerConfig(type="vq", bottleneck_dim=64, codebook_size=512)
    quantizer = create_quantizer(config, 128, TrainingStep(512))
    network = SegmentationNetwork(FeatureNormalizer(128), quantizer, ConvolutionalHead(128, 3))
    network.eval()
    state = torch.randn(2, 128, 16, 16)
    with torch.no_grad():
        expected = network(state).codes
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(network(state).codes, expected)


def test_the_error_of_a_reconstruction_does_not_depend_on_the_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    config = QuantizerConfig(type="vq", bottleneck_dim=8, codebook_size=16)
    quantizer = create_quantizer(config, 32, TrainingStep(32))
    network = SegmentationNetwork(FeatureNormalizer(32), quantizer, None).eval()
    model = ModelConfig(loss_type="reconstruction", cosine_weight=0.5)
    module = ReconstructionModule(ExperimentConfig(model=model), network)
    batch = torch.randn(2, 32, 4, 4), torch.zeros(2, 8, 8, dtype=torch.uint8), torch.arange(2)

    def without_padding(output: Quantized, positions: torch.Tensor) -> dict[str, torch.Tensor]:
        counted = torch.ones(2, 4, 4, dtype=torch.bool)
        decoded = network.decoded(output)
        return {"features": output.features, "decoded": decoded, "counted": counted}

    monkeypatch.setattr(module, "_distortion", without_padding)
    losses = []
    for half in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            losses.append(run_step(module, batch))
    assert torch.equal(losses[0], losses[1])
    assert losses[0] > 0.1
