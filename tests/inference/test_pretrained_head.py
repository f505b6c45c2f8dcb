"""A run whose head began with the backbone's pretrained weights decodes as it was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models.segmentation import deeplabv3_resnet50

from squeeze_cli.api import open_run
from squeeze_cli.backbones import create_backbone
from squeeze_cli.model.build import build_network
from tests.conftest import Squeeze


@pytest.mark.slow
def test_masks_from_codes_are_the_networks_own(squeeze: Squeeze, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    squeeze(
        "train", "--quantizer", "vq", "--codebook-size", "16", "--model", "deeplab",
        "--weights", "whole.pth", "--dataset", "synthetic", "--image-size", "64",
        "--subset-size", "6", "--epochs", "1", "--num-workers", "0", "--quiet", "--name", "pre",
    )  # fmt: skip
    folder = tmp_path / "runs" / "pre"
    run = open_run(folder, "cpu")
    trained = build_network(run.config, create_backbone(run.config.model, (64, 64)))
    trained.load_state_dict(run.network.state_dict())
    assert trained.head.expects_raw_features
    assert run.record.model.head_expects_raw_features
    (tmp_path / "whole.pth").unlink()  # codes need no weights of the backbone
    codes = torch.randint(0, 16, (2, 64, 1), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        networks = trained.eval(), open_run(folder, "cpu").network
        expected, logits = (n.logits(n.quantizer.lookup(codes), (8, 8)) for n in networks)
    assert torch.equal(logits, expected)
