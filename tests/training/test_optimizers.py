"""Which parameters learn at which rate."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from squeeze_cli.config.parts import QUANTIZERS
from squeeze_cli.config.resolve import resolve_defaults, with_values
from squeeze_cli.config.schema import (
    ExperimentConfig,
    ModelConfig,
    QuantizerConfig,
)
from squeeze_cli.heads.base import ConvolutionalHead
from squeeze_cli.model.network import FeatureNormalizer, SegmentationNetwork
from squeeze_cli.quantizers import TrainingStep, create_quantizer
from squeeze_cli.training.experiment import make_module
from squeeze_cli.training.modules import UNFROZEN_LR_FACTOR, SegmentationModule
from tests.conftest import OWN_QUANTIZERS

CHANNELS, LR = 24, 2e-3
WITH_ENCODER = [name for name in QUANTIZERS if "encoder_lr_factor" in QUANTIZERS[name].options]


def make(name: str, factor: float | None = None, unfreeze: bool = False) -> tuple:
    """A module with a trainer that knows only how long it will train, and its optimizer."""
    quantizer = QuantizerConfig(
        type=name, codes="plain", codebook_size=16, bottleneck_dim=8, encoder_lr_factor=factor
    )
    config = ExperimentConfig(quantizer=quantizer, model=ModelConfig(num_classes=3))
    config = resolve_defaults(with_values(config, {"training.lr": LR}))
    torch.manual_seed(0)
    network = SegmentationNetwork(
        FeatureNormalizer(CHANNELS),
        create_quantizer(config.quantizer, CHANNELS, TrainingStep(64)),
        ConvolutionalHead(CHANNELS, 3),
        last_layer=torch.nn.Conv2d(CHANNELS, CHANNELS, 1) if unfreeze else None,
    )
    module = make_module(config, network)
    module.trainer = SimpleNamespace(estimated_stepping_batches=10)
    return module, module.configure_optimizers()["optimizer"]


def peak_rates(module: SegmentationModule, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The highest rate of each parameter by name; each must be in one group only."""
    names = {id(parameter): name for name, parameter in module.network.named_parameters()}
    pairs = [
        (names[id(parameter)], group["max_lr"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len(pairs) == len(names) == len(dict(pairs))
    return dict(pairs)


@pytest.mark.parametrize("name", WITH_ENCODER)
@pytest.mark.parametrize("factor", [None, 0.0, 0.25, 1.0])
def test_the_encoders_rate_follows_the_option(name: str, factor: float | None) -> None:
    module, optimizer = make(name, factor)
    expected = {None: 0.3 if name == "vq" else 1.0}.get(factor, factor)
    encoder = {id(p) for p in module.network.encoder_parameters()}
    ids = {name: id(parameter) for name, parameter in module.network.named_parameters()}
    for parameter, rate in peak_rates(module, optimizer).items():
        share = expected if ids[parameter] in encoder else 1.0
        assert rate == pytest.approx(share * LR), parameter


def test_at_factor_zero_the_encoder_stays_and_the_rest_moves() -> None:
    module, optimizer = make("vq", 0.0)
    before = {name: p.detach().clone() for name, p in module.network.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        output = module.network.train()(torch.randn(2, CHANNELS, 3, 4))
        (output.logits.square().mean() + output.quantizer_loss).backward()
        optimizer.step()
    moved = {n for n, p in module.network.named_parameters() if not torch.equal(p, before[n])}
    held = set(before) - moved
    assert held == {"quantizer.project_in.weight", "quantizer.project_in.bias"}


def test_the_unfrozen_layer_and_the_encoder_are_slowed_apart() -> None:
    rates = peak_rates(*make("lfq", 0.5, unfreeze=True))
    assert rates["last_layer.weight"] == pytest.approx(UNFROZEN_LR_FACTOR * LR)
    assert rates["quantizer.to_code.weight"] == pytest.approx(0.5 * LR)
    assert rates["quantizer.from_code.weight"] == pytest.approx(LR)


def test_without_a_quantizer_there_is_one_group() -> None:
    _, optimizer = make("none")
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("name", OWN_QUANTIZERS)
def test_every_parameter_gets_a_gradient_in_every_step(name: str) -> None:
    """Otherwise processes that train together would wait for those of the others."""
    module, _ = make(name, unfreeze=True)
    output = module.network.train()(torch.randn(2, CHANNELS, 3, 4))
    (output.logits.square().mean() + output.quantizer_loss).backward()
    assert [n for n, p in module.network.named_parameters() if p.grad is None] == []
