"""What codes cost, measured: the sizes of files, and of what a decoder needs besides them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.codec.layout import payload_bytes
from squeeze_cli.codec.prior import CodePrior
from squeeze_cli.codec.prior_coding import Slots

if TYPE_CHECKING:
    from squeeze_cli.quantizers.base import Quantizer

FLOAT32_BYTES = 4


def measure_codes(
    content: bytes,
    codes_nhwq: NDArray[np.integer],
    feature_dim: int,
    slots: Slots | None,
) -> dict[str, Any]:
    """Sizes of the codes file `content`, all its bytes counted; docs/run-record.md has the fields.

    Args:
        content: the file.
        codes_nhwq: the codes in it.
        feature_dim: channels of the backbone's features, for the ratio.
        slots: what the prior that coded them gives them, or None where they are packed.
    """
    images, rows, columns, _ = codes_nhwq.shape
    vectors = images * rows * columns
    size, payload = len(content), payload_bytes(content)
    return {
        "coding": "packed" if slots is None else "prior",
        "images": images,
        "vectors": vectors,
        "file_bytes": size,
        "payload_bytes": payload,
        "bits_per_vector": 8 * size / vectors,
        "payload_bits_per_vector": 8 * payload / vectors,
        "prior_cross_entropy_bits": None if slots is None else slots.bits / vectors,
        "bytes_per_image": size / images,
        "compression_ratio": FLOAT32_BYTES * feature_dim * vectors / size,
    }


def decoder_bytes(quantizer: Quantizer, prior: CodePrior | None) -> dict[str, int]:
    """What turns codes into features, once for all images: learned codebooks and the linear maps
    behind them as float32, the prior as stored."""
    output = quantizer.output_map()
    codebooks = sum(v.numel() for v in quantizer.code_vectors()) if quantizer.has_codebook else 0
    return {
        "codebook_bytes": FLOAT32_BYTES * codebooks,
        "projection_bytes": FLOAT32_BYTES * (output.weight.numel() + output.bias.numel()),
        "prior_bytes": 0 if prior is None else sum(a.nbytes for a in prior.arrays().values()),
    }
