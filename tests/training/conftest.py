"""A module small enough to be looked at."""

from __future__ import annotations

import pytest

from squeeze_cli.config import ExperimentConfig, ModelConfig, QuantizerConfig, resolve_defaults
from squeeze_cli.heads.convolutional import ConvolutionalHead
from squeeze_cli.quantizers.identity import IdentityQuantizer
from squeeze_cli.training.fit import make_module
from squeeze_cli.training.modules import BaselineSegmentationModule
from squeeze_cli.training.network import FeatureNormalizer, SegmentationNetwork


@pytest.fixture
def module() -> BaselineSegmentationModule:
    config = resolve_defaults(
        ExperimentConfig(quantizer=QuantizerConfig(type="none"), model=ModelConfig(num_classes=3))
    )
    network = SegmentationNetwork(
        FeatureNormalizer(4), IdentityQuantizer(4), ConvolutionalHead(4, 3, hidden=2)
    )
    return make_module(config, network)
