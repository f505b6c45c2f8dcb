"""Quantizers: feature vectors to codes and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from squeeze_cli.config.parts import QUANTIZERS

if TYPE_CHECKING:
    from squeeze_cli.config.schema import QuantizerConfig
    from squeeze_cli.quantizers.base import Quantizer


def create_quantizer(config: QuantizerConfig, feature_dim: int) -> Quantizer:
    """Build the quantizer that `config.type` names, for vectors of `feature_dim` channels.

    Raises UsageError for an unknown name.
    """
    quantizer: Quantizer = QUANTIZERS.load(config.type).from_config(config, feature_dim)
    return quantizer
