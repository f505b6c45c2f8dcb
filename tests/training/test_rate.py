"""The rate of codes in the loss (`--rate-weight`)."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.model.layers import ENCODER_BLOCKS, ENCODER_CHANNELS, ResidualPath
from squeeze_cli.model.network import FeatureNormalizer, Quantized, SegmentationNetwork
from squeeze_cli.quantizers import TrainingStep, create_quantizer
from squeeze_cli.quantizers.dct import HALF, CosineQuantizer
from squeeze_cli.quantizers.rate import USUAL_VECTORS, CoefficientRate, RateModel
from tests.conftest import Squeeze

B, H, W, C, D = 2, 3, 4, 12, 5
TINY = (
    "--model", "efficientnet-lite0", "--dataset", "synthetic", "--image-size", "64",
    "--subset-size", "12", "--num-workers", "0", "--no-progress", "--epochs", "2",
)  # fmt: skip


def quantize(inputs: Tensor, codebooks: list[Tensor], grid: tuple[int, int]) -> Quantized:
    """Residual quantization of inputs `[B, N, D]`, whose code vectors are leaves of the graph."""
    rest, codes = inputs.detach(), []
    for codebook in codebooks:
        codes.append(torch.cdist(rest.flatten(0, 1), codebook).argmin(dim=1).view(len(rest), -1))
        rest = rest - codebook[codes[-1]]
    vectors = (inputs.detach() - rest).requires_grad_()
    maps = torch.zeros(len(inputs), 7, *grid)
    return Quantized(maps, vectors, torch.stack(codes, dim=2), torch.zeros(()), inputs, grid)


@pytest.mark.parametrize("levels", [1, 2])
def test_codes_are_predicted_from_what_is_decoded_before_them(levels: int) -> None:
    torch.manual_seed(0)
    codebooks = list(torch.randn(levels, 6, D))
    model = RateModel([6] * levels, D).eval()
    quantized = quantize(torch.randn(B, H * W, D, requires_grad=True), codebooks, (H, W))
    soft, hard = model(quantized, codebooks)
    (influence,) = torch.autograd.grad(soft, quantized.vectors, retain_graph=True)
    used = influence.abs().sum(dim=(0, 2)).view(H, W) > 0
    assert used.flatten()[:-1].all()
    assert not used[-1, -1]  # nothing comes after the last vector
    # The model learns from codes as they are, and gives the network no gradient for it.
    inputs = [quantized.vectors, quantized.inputs]
    assert torch.autograd.grad(hard, inputs, allow_unused=True) == (None, None)


def test_levels_that_a_step_leaves_out_cost_nothing() -> None:
    """Yet all weights have a gradient, which several processes that train together wait for."""
    torch.manual_seed(0)
    codebooks = list(torch.randn(2, 6, D))
    model = RateModel([6, 6], D).eval()
    quantized = quantize(torch.randn(B, H * W, D), codebooks[:1], (H, W))
    alone = model(quantized, codebooks[:1])
    codes = torch.cat([quantized.codes, torch.full_like(quantized.codes, -1)], dim=2)
    both = model(dataclasses.replace(quantized, codes=codes), codebooks)
    torch.testing.assert_close(both, alone)
    sum(both).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("levels", [1, 2])
def test_it_learns_the_bits_of_codes(levels: int) -> None:
    torch.manual_seed(0)
    codebooks = [torch.randn(4, D), 0.1 * torch.randn(4, D)][:levels]
    model = RateModel([4] * levels, D)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    wanted = {"random": 2.0 * levels, "equal": 0.0}
    for kind, bits in wanted.items():
        for _ in range(200):
            picked = torch.randint(4, (16, H * W, levels)) * (kind == "random")
            inputs = sum(book[picked[..., q]] for q, book in enumerate(codebooks))
            assert isinstance(inputs, Tensor)
            soft, hard = model(quantize(inputs, codebooks, (H, W)), codebooks)
            optimizer.zero_grad()
            hard.backward()
            optimizer.step()
        assert hard.item() == pytest.approx(bits, abs=0.15)
        assert soft.item() == pytest.approx(bits, abs=0.3)


@pytest.mark.parametrize("kind", ["vq", "rvq", "pq"])
@pytest.mark.slow
def test_a_weight_makes_codes_predictable(kind: str) -> None:
    assert conditional_entropy(kind, weight=0.3) < 0.8 * conditional_entropy(kind, weight=0.0)


def conditional_entropy(kind: str, weight: float) -> float:
    """Bits of the first code given the one to its left, after a short training on noisy maps."""
    torch.manual_seed(0)
    config = QuantizerConfig(
        type=kind, bottleneck_dim=6, codebook_size=8, num_quantizers=2, num_groups=2
    )
    quantizer = create_quantizer(config, C, TrainingStep(16 * 36))
    smooth = torch.nn.functional.interpolate(torch.randn(64, C, 2, 2), (6, 6), mode="bilinear")
    maps = smooth + 0.3 * torch.randn_like(smooth)
    quantizer.initialize(maps.permute(0, 2, 3, 1).reshape(-1, C))
    encoder = ResidualPath(C, ENCODER_CHANNELS, ENCODER_BLOCKS)
    network = SegmentationNetwork(FeatureNormalizer(C), quantizer, None, encoder=encoder)
    model = RateModel(quantizer.code_sizes, 6)
    optimizer = torch.optim.AdamW([*network.parameters(), *model.parameters()], 2e-3)
    for step in range(80):
        output = network.quantize(maps[torch.randint(64, (16,))])
        soft, hard = model(output, quantizer.code_vectors())
        error = (network.decoded(output) - output.features).square().mean()
        loss = error + output.quantizer_loss + min(1, step / 25) * weight * soft + hard
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    codes = network.eval().codes(maps)[..., 0]
    pairs = (8 * codes[:, :, :-1] + codes[:, :, 1:]).flatten().bincount(minlength=64).view(8, 8)
    shares = pairs / pairs.sum()
    given = shares / shares.sum(dim=1, keepdim=True)
    return float(-(shares * given.log2()).nansum())


def test_bits_of_coefficients_are_estimated_by_their_own_distributions() -> None:
    """The estimate of Laplace-distributed coefficients is near the entropy of the rounded ones."""
    torch.manual_seed(0)
    scales = torch.tensor([[0.05, 0.3, 1.0], [4.0, 0.1, 20.0]])
    drawn = torch.distributions.Laplace(0.0, scales).sample((4000,))
    model, entropy = CoefficientRate((2, 3)), 0.0
    for own in drawn.flatten(1).T:
        shares = (own.round() + 500).long().bincount() / len(own)
        entropy += float(torch.special.entr(shares).sum()) / math.log(2)
    for _ in range(3):
        output = Quantized(drawn, drawn, drawn, torch.zeros(()), drawn, (1, 2))
        soft, hard = model(output, [])
    assert float(soft) == pytest.approx(entropy / USUAL_VECTORS, rel=0.15)
    assert hard is None


def test_the_rate_pulls_coefficients_to_zero() -> None:
    model = CoefficientRate((2, 3))
    inputs = (3 * torch.randn(500, 2, 3)).requires_grad_()
    soft, _ = model(Quantized(inputs, inputs, inputs, torch.zeros(()), inputs, (1, 2)), [])
    soft.backward()
    assert inputs.grad is not None
    far = inputs.detach().abs() > 1
    assert (inputs.grad[far].sign() == inputs.detach()[far].sign()).all()


def test_a_weight_makes_fewer_coefficients() -> None:
    assert used_coefficients(weight=0.5) < 0.8 * used_coefficients(weight=0.0)


def used_coefficients(weight: float) -> int:
    """Number of coefficients that are not 0 after a short training on noisy maps."""
    torch.manual_seed(0)
    config = QuantizerConfig(type="dct", bottleneck_dim=6, step_size=1 / 6)
    quantizer = create_quantizer(config, C, TrainingStep(16 * 36, 1, 36))
    smooth = torch.nn.functional.interpolate(torch.randn(64, C, 2, 2), (6, 6), mode="bilinear")
    maps = smooth + 0.3 * torch.randn_like(smooth)
    quantizer.initialize(maps.permute(0, 2, 3, 1).reshape(-1, C))
    assert isinstance(quantizer, CosineQuantizer)
    network = SegmentationNetwork(FeatureNormalizer(C), quantizer, None)
    model = CoefficientRate(quantizer.coefficients)
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    for _ in range(80):
        output = network.quantize(maps[torch.randint(64, (16,))])
        error = (network.decoded(output) - output.features).square().mean()
        loss = error + weight * model(output, [])[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return int((network.eval().codes(maps) != HALF).sum())


@pytest.mark.parametrize("loss", ["ce", "reconstruction"])
@pytest.mark.parametrize("kind", ["vq", "rvq", "pq", "dct"])
def test_records_and_checkpoints_hold_it(
    squeeze: Squeeze, tmp_path: Path, kind: str, loss: str
) -> None:
    size = ("--step-size", "0.5") if kind == "dct" else ("--codebook-size", "16")
    run = ("train", *TINY, "--quantizer", kind, *size, "--loss", loss)
    squeeze(*run, "--rate-weight", "0.5", "--name", "it")
    record = json.loads((tmp_path / "runs" / "it" / "run.json").read_text())
    trained = record["history"][-1]["train"]
    assert trained["rate_loss"] > 0
    parts = sum(value for name, value in trained.items() if name.endswith("_loss"))
    assert trained["loss"] == pytest.approx(parts, rel=1e-4)
    told = json.loads(squeeze("evaluate", "runs/it", "--json").stdout)["metrics"]
    assert told["loss"] == pytest.approx(record["metrics"]["test"]["loss"], rel=1e-4)
    stored = torch.load(
        tmp_path / "runs" / "it" / "checkpoints" / "last.ckpt", weights_only=True
    )["state_dict"]  # fmt: skip
    assert any(name.startswith("rate_model.") for name in stored)


@pytest.mark.parametrize("quantizer", ["fsq", "lfq", "none"])
def test_other_quantizers_refuse_it(squeeze: Squeeze, quantizer: str) -> None:
    told = squeeze("train", *TINY, "--quantizer", quantizer, "--rate-weight", "1", code=2).stderr
    assert "--rate-weight" in told
