"""Quantizers: from feature vectors to codes and back."""

from squeeze_cli.config.parts import QUANTIZERS
from squeeze_cli.config.schema import QuantizerConfig
from squeeze_cli.quantizers.base import Quantizer, TrainingStep

__all__ = ["Quantizer", "TrainingStep", "create_quantizer"]


def create_quantizer(config: QuantizerConfig, feature_dim: int, step: TrainingStep) -> Quantizer:
    """Build the quantizer that `config.type` names, for vectors of `feature_dim` channels."""
    quantizer: Quantizer = QUANTIZERS.load(config.type)(config, feature_dim, step)
    return quantizer
