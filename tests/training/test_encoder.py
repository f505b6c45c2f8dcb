"""What stands before the codes (`--encoder`), and what they are asked to keep."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from squeeze_cli.config.resolve import resolve_defaults
from squeeze_cli.config.schema import ExperimentConfig, QuantizerConfig
from squeeze_cli.heads.base import ConvolutionalHead
from squeeze_cli.model.layers import ResidualPath
from squeeze_cli.model.network import FeatureNormalizer, SegmentationNetwork
from squeeze_cli.quantizers import TrainingStep, create_quantizer
from squeeze_cli.training.distillation import distillation_loss
from tests.cases.stock import stop
from tests.conftest import OWN_QUANTIZERS, Squeeze

C, D = 12, 6
TINY = (
    "--model", "efficientnet-lite0", "--dataset", "synthetic", "--image-size", "64",
    "--subset-size", "12", "--num-workers", "0", "--no-progress",
)  # fmt: skip


def make_network(quantizer: str, encoder: torch.nn.Module | None) -> SegmentationNetwork:
    torch.manual_seed(0)
    config = QuantizerConfig(type=quantizer, bottleneck_dim=D, codebook_size=16, num_groups=2)
    config = resolve_defaults(ExperimentConfig(quantizer=config)).quantizer
    made = create_quantizer(config, C, TrainingStep(64))
    made.initialize(torch.randn(400, C))
    head = ConvolutionalHead(C, 3)
    return SegmentationNetwork(FeatureNormalizer(C), made, head, encoder=encoder).eval()


@pytest.mark.parametrize("quantizer", OWN_QUANTIZERS)
def test_it_starts_as_the_identity_and_then_sees_the_neighbours(quantizer: str) -> None:
    encoder = ResidualPath(C, hidden=16, blocks=2)
    plain, network = make_network(quantizer, None), make_network(quantizer, encoder)
    state = torch.randn(1, C, 5, 6)
    assert torch.equal(network(state).logits, plain(state).logits)
    torch.nn.init.normal_(encoder.up.weight)
    changed = state.clone()
    changed[..., 0, 0] += 500
    before, after = network(state), network(changed)
    elsewhere = (before.vectors != after.vectors).any(dim=2).view(5, 6)[1:, 1:]
    assert elsewhere.any()
    if network.quantizer.code_sizes:  # the decoder knows no encoder
        decoded = network.logits(network.quantizer.lookup(before.codes), (5, 6))
        assert torch.equal(decoded, plain.logits(plain.quantizer.lookup(before.codes), (5, 6)))


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", OWN_QUANTIZERS)
def test_runs_with_an_encoder_are_decoded_and_compared(
    squeeze: Squeeze, tmp_path: Path, quantizer: str
) -> None:
    options = ("--encoder", "conv", "--quantizer", quantizer, "--epochs", "1")
    squeeze("train", *TINY, *options, "--name", "it")
    record = json.loads((tmp_path / "runs" / "it" / "run.json").read_text())
    assert record["model"]["encoder"] == "conv"
    told = json.loads(squeeze("evaluate", "runs/it", "--json").stdout)
    assert told["metrics"]["iou"] == pytest.approx(record["metrics"]["test"]["iou"], abs=1e-6)
    operations = record["quantizer"]["encoder_flops"]
    if quantizer == "none":
        assert operations is None
    else:
        # Each of the 4 x 4 vectors passes both residual blocks and two projections, at least.
        layers = 320 * 128 + 2 * (128 * 25 + 128 * 256 + 256 * 128) + 128 * 64
        assert 2 * 16 * layers < operations < 4 * 16 * layers
        assert record["metrics"]["test"]["mse"] > 0
        squeeze("decode", "runs/it/codes/test.sqz", "--to", "masks", "--out", "masks")
        assert len(list((tmp_path / "masks").glob("*.png"))) == record["data"]["test_images"]


@pytest.mark.slow
def test_reconstruction_in_the_loss_keeps_the_features(squeeze: Squeeze, tmp_path: Path) -> None:
    errors = []
    for weight in ("0", "10"):
        options = ("--codes", "plain", "--encoder", "conv", "--epochs", "4", "--lr", "0.003")
        squeeze("train", *TINY, *options, "--reconstruction-weight", weight, "--name", f"w{weight}")
        record = json.loads((tmp_path / "runs" / f"w{weight}" / "run.json").read_text())
        errors.append(record["metrics"]["test"]["mse"])
    assert errors[1] < errors[0]
    losses = record["metrics"]["val"]
    parts = sum(losses[f"{name}_loss"] for name in ("segmentation", "vq", "reconstruction"))
    assert losses["loss"] == pytest.approx(parts, rel=1e-4)


@pytest.mark.slow
def test_the_predictions_of_a_baseline_are_learned(squeeze: Squeeze, tmp_path: Path) -> None:
    """A teacher that has learned little is followed in what the masks do not say."""
    steps = ("--epochs", "6", "--batch-size", "4")
    squeeze("baseline", *TINY, "--epochs", "1", "--name", "teacher")
    divergences = []
    for weight in ("0.001", "10"):
        options = ("--distill", "runs/teacher", "--distill-weight", weight, "--name", f"w{weight}")
        squeeze("train", *TINY, *steps, *options)
        record = json.loads((tmp_path / "runs" / f"w{weight}" / "run.json").read_text())
        divergences.append(record["history"][-1]["train"]["distill_loss"] / float(weight))
    assert divergences[1] < 0.5 * divergences[0]
    teacher = json.loads((tmp_path / "runs" / "teacher" / "run.json").read_text())
    assert record["model"]["teacher_digest"] == teacher["digest"]
    checkpoint = tmp_path / "runs" / "w10" / "checkpoints" / "best.ckpt"
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert not [name for name in weights if "teacher" in name or "distill" in name]


@pytest.mark.slow
def test_a_run_resumes_with_its_own_teacher_wherever_it_lies(
    squeeze: Squeeze, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    for name, epochs in (("teacher", "1"), ("other", "2")):
        squeeze("baseline", *TINY, "--epochs", epochs, "--name", name)
    squeeze("train", *TINY, "--epochs", "2", "--distill", "runs/teacher", "--name", "it")
    digest = json.loads((runs / "it" / "run.json").read_text())["digest"]
    stop(runs / "it")
    (runs / "teacher").rename(runs / "moved")
    resume = ("train", "--resume", "--name", "it", "--no-progress")
    assert "runs/teacher holds no run.json" in squeeze(*resume, code=1).stderr
    refused = squeeze(*resume, "--distill", "runs/other", code=1)
    assert "is not the baseline that this run began with" in refused.stderr
    squeeze(*resume, "--distill", "runs/moved")
    assert json.loads((runs / "it" / "run.json").read_text())["digest"] == digest
    shutil.rmtree(runs / "moved")
    told = squeeze("decode", "runs/it/codes/test.sqz", "--to", "masks", "--out", "masks")
    assert told.returncode == 0


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (("--distill", "runs/none"), 1, "runs/none"),
        (("--distill", "runs/teacher", "--image-size", "96"), 2, "--image-size is 64"),
        (("--distill", "runs/teacher", "--weights", "none"), 2, "other weights"),
        (
            ("--quantizer", "none", "--reconstruction-weight", "1"),
            2,
            "where no quantizer is trained",
        ),
        (("--loss", "reconstruction", "--distill", "runs/teacher"), 2, "--distill"),
        (("--encoder", "mlp"), 2, "--encoder"),
    ],
)
def test_what_cannot_be_is_refused(
    squeeze: Squeeze, options: tuple[str, ...], code: int, reason: str
) -> None:
    if "runs/teacher" in options:
        squeeze("baseline", *TINY, "--epochs", "1", "--name", "teacher")
    done = squeeze("train", *TINY, *options, "--epochs", "1", code=code)
    assert reason in done.stderr


def test_the_prediction_of_a_network_that_is_its_own_teacher_costs_nothing() -> None:
    network = make_network("vq", None)
    state = torch.randn(2, C, 4, 4)
    logits = network(state).logits
    assert distillation_loss(network, 2.0, state, logits).item() == pytest.approx(0, abs=1e-6)
    other = logits + torch.randn_like(logits)
    assert distillation_loss(network, 2.0, state, other).item() > 0.1
