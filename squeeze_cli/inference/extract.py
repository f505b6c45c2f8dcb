"""`squeeze extract-embeddings`: codes, quantized embeddings or features of many images as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from squeeze_cli.codec.rates import FLOAT32_BYTES, decoder_bytes
from squeeze_cli.console import Reporter
from squeeze_cli.inference.images import ImageSeries, folder_images, split_images
from squeeze_cli.inference.output import Array, Content, Manifest, ShardedOutput, save_embeddings
from squeeze_cli.inference.trained_run import TrainedRun
from squeeze_cli.reports.inference_results import ExtractionSummary

# Images per shard of codes.
CODES_PER_SHARD = 8192
FLOAT16_BYTES = 2


def extract_embeddings(
    run: TrainedRun,
    reporter: Reporter,
    *,
    images: Path | None = None,
    split: Literal["train", "val", "test", "all"] | None = None,
    content: Content = "codes",
    coding: Literal["prior", "packed"] | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> ExtractionSummary:
    """Write codes, quantized embeddings or features of images, and measure them.

    A stopped extraction continues after its last shard when it is asked for again.

    Args:
        run: The run that makes them.
        reporter: Reporter for messages and progress.
        images: Folder of images, in place of a split.
        split: Split of the run's data; None takes `test`.
        content: `codes`, `quantized` (embeddings made of codes) or `features` (what goes in).
        coding: How codes become bytes; None takes the prior where the run has one.
        out: Folder to write to; None takes one in the run's folder.
        overwrite: Whether to start anew.

    Raises:
        SqueezeError: The run has no codes, or images, weights or shards are missing or damaged.
        UsageError: `out` holds something else.
    """
    if content == "codes":
        run.require_codes()
    chosen = coding or ("prior" if run.has_prior else "packed")
    if images is None:
        name: str = split or "test"
        series = split_images(run, name, reporter)
    else:
        name = images.resolve().name
        series = folder_images(images, reporter)
    manifest = Manifest(
        content=content,
        run=run.folder.name,
        run_digest=run.digest,
        source=series.source,
        images_digest=series.digest,
        precision=run.config.training.precision,
        coding=chosen if content == "codes" else None,
        dtype="float32" if content != "codes" else None,
        space=run.space,
    )

    def write_codes(path: Path, codes: Array, names: Sequence[str]) -> None:
        path.write_bytes(run.encode(codes.astype(np.int32, copy=False), names, chosen))

    output = ShardedOutput(
        out or run.folder.path / "embeddings" / f"{name}-{content}",
        manifest,
        write_codes if content == "codes" else save_embeddings,
        overwrite=overwrite,
        max_images=CODES_PER_SHARD if content == "codes" else None,
    )
    if not output.manifest.complete:
        _write_all(run, series, output, reporter)
    return _summary(run, output)


def _write_all(
    run: TrainedRun, series: ImageSeries, output: ShardedOutput, reporter: Reporter
) -> None:
    done = output.manifest.images
    with reporter.track("Extracting", len(series.samples)) as advance:
        advance(done, "")
        try:
            for names, state in series.states(run, done, reporter):
                output.add(names, *_extract(run, state, output.manifest.content))
                advance(len(names), "")
        except KeyboardInterrupt:
            output.flush()  # so that what is done is kept
            raise
    output.finish()


@torch.no_grad()
def _extract(run: TrainedRun, state: Tensor, content: Content) -> tuple[Array, dict[str, float]]:
    """Return what is written of a batch, and sums for its distortion.

    The distortion is that of normalized features, as the quantizer sees them.
    """
    if content == "features":
        return run.raw_features(state).float().cpu().numpy(), {}
    maps = run.network.features(state)
    if not run.code_sizes:
        return run.to_output(maps).float().cpu().numpy(), {}
    codes = run.codes(maps)
    decoded = run.features(codes)
    error = (decoded - maps).square().mean(dim=1)
    cosine = torch.nn.functional.cosine_similarity(decoded, maps, dim=1)
    sums = {
        "squared_error": float(error.cpu().double().sum()),
        "cosine": float(cosine.cpu().double().sum()),
        "vectors": float(error.numel()),
    }
    if content == "codes":
        return codes, sums
    return run.to_output(decoded).float().cpu().numpy(), sums


def _summary(run: TrainedRun, output: ShardedOutput) -> ExtractionSummary:
    manifest = output.manifest
    rows, columns = run.grid
    vectors = manifest.images * rows * columns
    values = run.network.normalizer.mean.numel() * vectors
    summary = ExtractionSummary(
        run=manifest.run,
        out=str(output.folder),
        content=manifest.content,
        coding=manifest.coding,
        source=manifest.source,
        images=manifest.images,
        vectors=vectors,
        shards=len(manifest.shards),
        file_bytes=manifest.bytes,
        bytes_per_image=manifest.bytes / manifest.images,
        compression_ratio_float32=FLOAT32_BYTES * values / manifest.bytes,
        compression_ratio_float16=FLOAT16_BYTES * values / manifest.bytes,
    )
    if run.code_sizes and manifest.content != "features":
        count = output.total("vectors")
        summary.mse = output.total("squared_error") / count
        summary.cosine = output.total("cosine") / count
    if manifest.content == "codes":
        prior = run.prior if manifest.coding == "prior" else None
        decoder = sum(decoder_bytes(run.network.quantizer, prior).values())
        needed = manifest.bytes + decoder
        summary.nominal_bits_per_vector = run.network.quantizer.nominal_bits_per_vector
        summary.bits_per_vector = 8 * manifest.bytes / vectors
        summary.decoder_bytes = decoder
        summary.compression_ratio_float32_with_decoder = FLOAT32_BYTES * values / needed
        summary.compression_ratio_float16_with_decoder = FLOAT16_BYTES * values / needed
    return summary
