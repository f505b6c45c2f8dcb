"""The plain loop is the same model as ours: otherwise its time would say nothing."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from benchmarks.plain_loop import QUANTIZERS, PlainModel, make_metrics, run_epoch
from benchmarks.training import COMPARABLE
from squeeze_cli.backbones import create_backbone
from squeeze_cli.config.resolve import resolve_defaults
from squeeze_cli.config.schema import (
    ExperimentConfig,
    ModelConfig,
    QuantizerConfig,
)
from squeeze_cli.model.build import build_network, initialize_network
from squeeze_cli.training.metrics import SegmentationMetrics

IMAGES, SIZE = 6, 128


@pytest.mark.parametrize("backbone_name", ["efficientnet-lite0", "deeplab"])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_the_same_weights_give_the_same_logits(backbone_name: str, quantizer: str) -> None:
    config = resolve_defaults(
        ExperimentConfig(
            quantizer=QuantizerConfig(
                type=quantizer, codes="plain", codebook_size=8, bottleneck_dim=24
            ),
            model=ModelConfig(backbone=backbone_name, weights="none"),
        )
    )
    backbone = create_backbone(config.model, (SIZE, SIZE))
    network = build_network(config, backbone)
    extract = backbone.network
    torch.manual_seed(0)
    # k-means sees other images than the step does: a code may stand for a single vector, and what
    # that leaves for rvq's next code is rounding alone, as is the direction of its gradient.
    known, images = torch.randn(2, IMAGES, 3, SIZE, SIZE)
    with torch.no_grad():
        pool = extract(known)
        initialize_network(network, [(pool, torch.ones_like(pool[:, 0], dtype=torch.bool))], seed=1)
        states = extract(images)
        plain = PlainModel(config, backbone, step_tokens=states[:, 0].numel())
        plain.load_initial(network.state_dict())
        expected = F.interpolate(
            network.eval()(states).logits, (SIZE, SIZE), mode="bilinear", align_corners=False
        )
        logits, loss = plain.eval()(images)
    assert torch.allclose(logits, expected, atol=1e-4), (logits - expected).abs().max()
    assert loss == 0
    if quantizer != "none" and backbone_name != "deeplab":  # whose head draws dropout
        output = network.train()(states)
        (ours,) = torch.autograd.grad(
            output.logits.square().mean(), network.quantizer.project_in.weight
        )
        features = (states - plain.mean[:, None, None]) / plain.std[:, None, None]
        tokens, _ = plain.train().quantizer(features.flatten(2).transpose(1, 2))  # type: ignore[misc]
        maps = plain.head(tokens.transpose(1, 2).reshape(states.shape))
        (theirs,) = torch.autograd.grad(
            maps.square().mean(),
            plain.quantizer.project_in.weight,  # type: ignore[union-attr]
        )
        assert ours.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(ours.abs().max()))


def test_its_metrics_are_ours() -> None:
    class Fixed(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images, torch.zeros(())

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 7, 9, generator=generator)
    masks = torch.randint(0, 3, (2, 7, 9), generator=generator)
    masks[0, :2] = 255
    values = run_epoch(
        Fixed(),
        [(logits, masks)],
        make_metrics(5),
        torch.device("cpu"),  # type: ignore[arg-type]
    )
    ours = SegmentationMetrics(5)
    ours.update(logits.argmax(dim=1), masks)
    assert values["iou"] == pytest.approx(float(ours.compute()["iou"]), abs=1e-6)
    assert values["accuracy"] == pytest.approx(float(ours.compute()["accuracy"]), abs=1e-6)
    loss = torch.nn.functional.cross_entropy(logits, masks, ignore_index=255)
    assert values["loss"] == pytest.approx(float(loss))


def test_only_quantizers_that_the_plain_loop_knows_are_offered() -> None:
    assert COMPARABLE == QUANTIZERS
