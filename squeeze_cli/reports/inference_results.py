"""Results of `squeeze evaluate` and `squeeze extract-embeddings`, and their tables."""

from __future__ import annotations

from pydantic import BaseModel
from rich.table import Table

from squeeze_cli.config.record import SplitMetrics
from squeeze_cli.reports.tables import facts, metrics_text, number


class EvaluationResult(BaseModel):
    """Metrics of a run on a split; docs/run-record.md describes the fields."""

    run: str
    split: str
    data_dir: str
    images: int
    skipped_images: int
    metrics: SplitMetrics


class ExtractionSummary(BaseModel):
    """Sizes of extracted files, and what was lost.

    Attributes:
        content: `codes`, `quantized` or `features`.
        coding: `prior` or `packed`; None without codes.
        file_bytes: Bytes of all shards; rates and ratios are computed from them.
        compression_ratio_float32, compression_ratio_float16: Bytes of the backbone's features in
            that type, over those of the shards; `_with_decoder` adds `decoder_bytes` to the latter.
        mse, cosine: Distortion of normalized features, as the quantizer sees them.
        nominal_bits_per_vector: Bits computed from the sizes of the codes, not measured.
        decoder_bytes: Bytes of codebook, projection and prior, needed once for all images.
    """

    run: str
    out: str
    content: str
    coding: str | None
    source: str
    images: int
    vectors: int
    shards: int
    file_bytes: int
    bytes_per_image: float
    compression_ratio_float32: float
    compression_ratio_float16: float
    mse: float | None = None
    cosine: float | None = None
    nominal_bits_per_vector: float | None = None
    bits_per_vector: float | None = None
    decoder_bytes: int | None = None
    compression_ratio_float32_with_decoder: float | None = None
    compression_ratio_float16_with_decoder: float | None = None


def evaluation_table(result: EvaluationResult) -> Table:
    """Return the table of `squeeze evaluate`."""
    rows = [
        ("Data", f"{result.images} images, {result.split}, {result.data_dir}"),
        ("Skipped images", result.skipped_images),
        (result.split.capitalize(), metrics_text(result.metrics)),
    ]
    return facts(result.run, rows)


def extraction_table(result: ExtractionSummary) -> Table:
    """Return the table of `squeeze extract-embeddings`, within 80 columns."""
    nominal = measured = ratio = with_decoder = distortion = None
    if result.content == "codes":
        nominal = f"{number(result.nominal_bits_per_vector)} bits per vector"
        coding = f"coding {result.coding}; all bytes of the files"
        measured = f"{number(result.bits_per_vector)} bits per vector ({coding})"
        ratio = _ratios(result.compression_ratio_float32, result.compression_ratio_float16)
        full = _ratios(
            result.compression_ratio_float32_with_decoder,
            result.compression_ratio_float16_with_decoder,
        )
        parts = "codebook, projection" + (", prior" if result.coding == "prior" else "")
        with_decoder = f"{full}, {result.decoder_bytes:,} bytes once: {parts}"
    if result.mse is not None:
        distortion = f"MSE {result.mse:.3f}, cosine {result.cosine:.3f} (normalized features)"
    rows = [
        ("Vectors", f"{result.vectors:,} in {result.images:,} images"),
        ("Nominal", nominal),
        ("Measured", measured),
        ("Size", f"{result.file_bytes:,} bytes, {number(result.bytes_per_image)} per image"),
        ("Ratio", ratio),
        ("With decoder", with_decoder),
        ("Distortion", distortion),
        ("Folder", result.out),
    ]
    return facts(f"{result.content} of {result.source}", rows)


def _ratios(float32: float | None, float16: float | None) -> str:
    return f"1/{number(float32)} of float32 and 1/{number(float16)} of float16"
