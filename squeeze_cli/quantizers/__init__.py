"""Quantizers: feature vectors to codes and back. The registry; nothing here imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from squeeze_cli.registry import Entry, Registry

if TYPE_CHECKING:
    from squeeze_cli.config import QuantizerConfig
    from squeeze_cli.quantizers.base import Quantizer

QUANTIZERS = Registry("quantizer")
_LEARNED_CODEBOOK = {
    "codebook_size",
    "bottleneck_dim",
    "decay",
    "commitment_weight",
    "vq_loss_weight",
    "initialize_codebook",
    "encoder_lr_factor",
}
QUANTIZERS.register(
    "vq",
    Entry(
        "squeeze_cli.quantizers.vq:VQWithProjection",
        "one learned codebook",
        options=frozenset(_LEARNED_CODEBOOK),
        defaults={"encoder_lr_factor": 0.3},
    ),
)
QUANTIZERS.register(
    "fsq",
    Entry(
        "squeeze_cli.quantizers.fsq:FSQWithProjection",
        "finite scalar quantization, a grid of levels",
        options=frozenset({"levels", "bottleneck_dim", "encoder_lr_factor"}),
    ),
)
QUANTIZERS.register(
    "lfq",
    Entry(
        "squeeze_cli.quantizers.lfq:LFQWithProjection",
        "lookup-free quantization, one bit a dimension",
        options=frozenset(
            {
                "codebook_size",
                "bottleneck_dim",
                "entropy_loss_weight",
                "diversity_gamma",
                "spherical",
                "commitment_weight",
                "vq_loss_weight",
                "encoder_lr_factor",
            }
        ),
    ),
)
QUANTIZERS.register(
    "rvq",
    Entry(
        "squeeze_cli.quantizers.residual_vq:ResidualVQWithProjection",
        "residual VQ, a stack of learned codebooks",
        options=frozenset({*_LEARNED_CODEBOOK, "num_quantizers"}),
        defaults={"codebook_size": 256},
    ),
)
QUANTIZERS.register(
    "none",
    Entry("squeeze_cli.quantizers.identity:IdentityQuantizer", "features pass as they are"),
)


def create_quantizer(config: QuantizerConfig, feature_dim: int) -> Quantizer:
    """Build the quantizer that `config.type` names, for vectors of `feature_dim` channels.

    Raises UsageError for an unknown name.
    """
    quantizer: Quantizer = QUANTIZERS.load(config.type).from_config(config, feature_dim)
    return quantizer
