"""What stands before the codes (`--encoder`), and what they are asked to keep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from squeeze_cli.api import open_run
from squeeze_cli.config.parts import QUANTIZERS
from squeeze_cli.config.resolve import resolve_defaults
from squeeze_cli.config.schema import ExperimentConfig, QuantizerConfig
from squeeze_cli.heads.base import ConvolutionalHead
from squeeze_cli.model.encoder import ConvEncoder
from squeeze_cli.model.network import FeatureNormalizer, SegmentationNetwork
from squeeze_cli.quantizers import StepSize, create_quantizer
from tests.conftest import Squeeze

C, D = 12, 6
TINY = (
    "--model", "efficientnet-lite0", "--dataset", "synthetic", "--image-size", "64",
    "--subset-size", "12", "--num-workers", "0", "--no-progress",
)  # fmt: skip


def make_network(quantizer: str, encoder: torch.nn.Module | None) -> SegmentationNetwork:
    torch.manual_seed(0)
    config = QuantizerConfig(type=quantizer, bottleneck_dim=D, codebook_size=16)
    config = resolve_defaults(ExperimentConfig(quantizer=config)).quantizer
    made = create_quantizer(config, C, StepSize(64))
    made.initialize(torch.randn(400, C))
    head = ConvolutionalHead(C, 3)
    return SegmentationNetwork(FeatureNormalizer(C), made, head, encoder=encoder).eval()


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_it_starts_as_the_identity_and_then_sees_the_neighbours(quantizer: str) -> None:
    encoder = ConvEncoder(C)
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
        decoded = network.logits_of_codes(before.codes, (5, 6))
        assert torch.equal(decoded, plain.logits_of_codes(before.codes, (5, 6)))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_runs_with_an_encoder_are_decoded_and_compared(
    squeeze: Squeeze, tmp_path: Path, quantizer: str
) -> None:
    options = ("--encoder", "conv", "--quantizer", quantizer, "--epochs", "1")
    squeeze("train", *TINY, *options, "--name", "it")
    record = json.loads((tmp_path / "runs" / "it" / "run.json").read_text())
    assert record["model"]["encoder"] == "conv"
    told = json.loads(squeeze("evaluate", "runs/it", "--json").stdout)
    assert told["metrics"]["iou"] == pytest.approx(record["metrics"]["test"]["iou"], abs=1e-6)
    if quantizer != "none":
        assert record["metrics"]["test"]["mse"] > 0
        squeeze("decode", "runs/it/codes/test.sqz", "--to", "masks", "--out", "masks")
        assert len(list((tmp_path / "masks").glob("*.png"))) == record["data"]["test_images"]


def test_a_baseline_with_an_encoder_is_no_reference(squeeze: Squeeze, tmp_path: Path) -> None:
    squeeze("baseline", *TINY, "--epochs", "1", "--name", "plain")
    squeeze("baseline", *TINY, "--epochs", "1", "--encoder", "conv", "--name", "conv")
    squeeze("train", *TINY, "--epochs", "1", "--name", "vq")
    rows = {
        row["name"]: row for row in json.loads(squeeze("compare", "runs", "--json").stdout)["runs"]
    }
    difference = rows["vq"]["test_iou"] - rows["plain"]["test_iou"]
    assert rows["vq"]["difference_to_baseline"] == pytest.approx(difference)


def test_reconstruction_in_the_loss_keeps_the_features(squeeze: Squeeze, tmp_path: Path) -> None:
    errors = []
    for weight in ("0", "10"):
        options = ("--encoder", "conv", "--epochs", "4", "--lr", "0.003", "--name", f"w{weight}")
        squeeze("train", *TINY, *options, "--reconstruction-weight", weight)
        record = json.loads((tmp_path / "runs" / f"w{weight}" / "run.json").read_text())
        errors.append(record["metrics"]["test"]["mse"])
    assert errors[1] < errors[0]
    losses = record["metrics"]["val"]
    parts = sum(losses[f"{name}_loss"] for name in ("segmentation", "vq", "reconstruction"))
    assert losses["loss"] == pytest.approx(parts, rel=1e-4)


def test_the_predictions_of_a_baseline_are_learned(squeeze: Squeeze, tmp_path: Path) -> None:
    squeeze("baseline", *TINY, "--epochs", "6", "--name", "teacher")
    squeeze("train", *TINY, "--epochs", "2", "--distill", "runs/teacher", "--name", "it")
    folder = tmp_path / "runs" / "it"
    record = json.loads((folder / "run.json").read_text())
    assert record["metrics"]["val"]["distill_loss"] > 0
    weights = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in weights if "teacher" in name or "distill" in name]
    run = open_run(folder)  # needs no teacher
    assert run.digest == record["digest"]


@pytest.mark.parametrize(
    ("command", "options", "reason"),
    [
        ("train", ("--distill", "runs/none"), "runs/none"),
        ("train", ("--distill", "runs/teacher", "--image-size", "96"), "--image-size is 64"),
        ("train", ("--distill", "runs/teacher", "--weights", "none"), "other weights"),
        ("train", ("--quantizer", "none", "--reconstruction-weight", "1"), "without a quantizer"),
        ("train", ("--loss", "reconstruction", "--distill", "runs/teacher"), "means nothing"),
        ("train", ("--encoder", "mlp"), "--encoder"),
    ],
)
def test_what_cannot_be_is_refused(
    squeeze: Squeeze, command: str, options: tuple[str, ...], reason: str
) -> None:
    if "runs/teacher" in options:
        squeeze("baseline", *TINY, "--epochs", "1", "--name", "teacher")
    done = squeeze(command, *TINY, *options, "--epochs", "1", code=None)
    assert done.returncode in (1, 2)
    assert reason in done.stderr


def test_the_prediction_of_a_network_that_is_its_own_teacher_costs_nothing() -> None:
    from squeeze_cli.training.distillation import Distillation

    network = make_network("vq", None)
    state = torch.randn(2, C, 4, 4)
    logits = network(state).logits
    assert Distillation(network, 2.0)(state, logits).item() == pytest.approx(0, abs=1e-6)
    assert Distillation(network, 2.0)(state, logits + torch.randn_like(logits)).item() > 0.1
