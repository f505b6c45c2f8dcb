"""`--no-kernels` takes the plain calls of torch, which give the same."""

from __future__ import annotations

import pytest
import torch

from squeeze_cli.backbones import create_backbone
from squeeze_cli.config.resolve import resolve_defaults
from squeeze_cli.config.schema import ExperimentConfig, ModelConfig, QuantizerConfig
from squeeze_cli.heads import base, deeplab_head
from squeeze_cli.losses import create_loss, segmentation
from squeeze_cli.model.build import build_network


@pytest.mark.parametrize(
    ("backbone", "quantizer", "kernels"),
    [
        ("efficientnet-lite0", "fsq", {"convolve_folded"}),
        ("deeplab", "fsq", {"fold", "centre_tap"}),
        ("deeplab", "none", {"convolve_dilated"}),
    ],
)
def test_the_switch_turns_all_kernels_off(
    backbone: str, quantizer: str, kernels: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: set[str] = set()

    def watch(module: object, name: str) -> None:
        kernel = getattr(module, name)

        def watched(*arguments: object) -> object:
            used.add(name)
            return kernel(*arguments)

        monkeypatch.setattr(module, name, watched)

    watch(base, "convolve_folded")
    for name in ("fold", "centre_tap", "convolve_dilated"):
        watch(deeplab_head, name)
    watch(segmentation, "upsampled_cross_entropy")
    results = []
    for use_kernels in (True, False):
        used.clear()
        model = ModelConfig(
            backbone=backbone, weights="none", use_kernels=use_kernels, feature_dim=96
        )
        config = resolve_defaults(
            ExperimentConfig(model=model, quantizer=QuantizerConfig(type=quantizer))
        )
        torch.manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            frozen = create_backbone(config.model, (64, 64))
        torch.manual_seed(0)
        network = build_network(config, frozen).eval()
        states = torch.randn(2, frozen.feature_dim, 4, 4)
        output = network(states)
        masks = torch.randint(0, 3, (2, 32, 32), dtype=torch.uint8)
        parts, predictions = create_loss(config.model)(output.logits, masks)
        results.append((output.logits, parts["ce"], predictions.long()))
        assert bool(used) == use_kernels
        if use_kernels:
            assert used == kernels | {"upsampled_cross_entropy"}
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)
