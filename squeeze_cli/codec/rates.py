"""Measured sizes of codes files, and of the parts that a decoder needs besides them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.codec.coding import Slots
from squeeze_cli.codec.prior import CodePrior
from squeeze_cli.config.record import DecoderBytes, MeasuredSplit

if TYPE_CHECKING:
    from torch import Tensor

FLOAT32_BYTES = 4


class Decodable(Protocol):
    """The part of a quantizer that turns codes into features."""

    has_codebook: bool

    def code_vectors(self) -> Sequence[Tensor]:
        """Return the vectors `[K, d]` of each code."""

    def output_map(self) -> Any:
        """Return the linear map from code vectors to features, with `weight` and `bias`."""


def measure_codes(
    content: bytes,
    codes_nhwq: NDArray[np.integer],
    feature_dim: int,
    slots: Slots | None,
    file: str = "",
) -> MeasuredSplit:
    """Measure a codes file, all its bytes counted; docs/run-record.md explains the fields.

    Args:
        content: the file's bytes.
        codes_nhwq: the codes in it.
        feature_dim: channels of the backbone's features, for the compression ratio.
        slots: the slots that the prior gives the codes, or None if they are packed.
        file: the file's path below the run's folder.
    """
    from safetensors.numpy import load

    images = len(codes_nhwq)
    vectors = codes_nhwq[..., 0].size
    payload = load(content)["payload"].nbytes
    return MeasuredSplit(
        coding="packed" if slots is None else "prior",
        images=images,
        vectors=vectors,
        file_bytes=len(content),
        payload_bytes=payload,
        bits_per_vector=8 * len(content) / vectors,
        payload_bits_per_vector=8 * payload / vectors,
        prior_cross_entropy_bits=None if slots is None else slots.bits / vectors,
        bytes_per_image=len(content) / images,
        compression_ratio=FLOAT32_BYTES * feature_dim * vectors / len(content),
        file=file,
    )


def decoder_bytes(quantizer: Decodable, prior: CodePrior | None) -> DecoderBytes:
    """Measure the learned codebooks and the linear map behind them as float32, and the prior as
    stored; a decoder needs them once for all images."""
    output = quantizer.output_map()
    codebooks = sum(v.numel() for v in quantizer.code_vectors()) if quantizer.has_codebook else 0
    return DecoderBytes(
        codebook_bytes=FLOAT32_BYTES * codebooks,
        projection_bytes=FLOAT32_BYTES * (output.weight.numel() + output.bias.numel()),
        prior_bytes=0 if prior is None else sum(a.nbytes for a in prior.arrays().values()),
    )
