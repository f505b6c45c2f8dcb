"""`squeeze extract-embeddings`: codes, quantized embeddings or features of many images as files."""

from collections.abc import Sequence
from hashlib import blake2b
from math import prod
from pathlib import Path

import numpy as np
import torch

from squeeze_cli.codec.manifest import Content, Manifest
from squeeze_cli.config.record import ExtractionSummary
from squeeze_cli.console import Reporter
from squeeze_cli.data.arrays import list_features, shape_text
from squeeze_cli.data.places import list_place, title_of
from squeeze_cli.data.reading import warn_of_skipped
from squeeze_cli.data.samples import Sample
from squeeze_cli.errors import SqueezeError, UsageError
from squeeze_cli.features.arrays import check_splits
from squeeze_cli.features.datamodule import Batch, FeatureBatches
from squeeze_cli.files import locked
from squeeze_cli.inference.extraction import Extraction
from squeeze_cli.inference.output import Array, ShardedOutput, encode_embeddings
from squeeze_cli.inference.trained_run import TrainedRun
from squeeze_cli.training.metrics import ReconstructionMetrics
from squeeze_cli.training.outputs import FLOAT32_BYTES, decoder_bytes


def extract_embeddings(
    run: TrainedRun, wanted: Extraction, reporter: Reporter
) -> ExtractionSummary:
    """Write codes, quantized embeddings or features of images, and measure them.

    A stopped extraction continues after its last shard when it is asked for again.

    Raises:
        SqueezeError: The run has no codes, or something is missing or damaged.
        UsageError: `wanted.out` holds something else.
    """
    content, coding = wanted.content, wanted.coding
    if content == "codes":
        run.require_codes()
        coding = coding or ("prior" if run.prior else "packed")
    source = "images"
    if wanted.features is not None:
        name, source = Path(wanted.features).resolve().stem, "features"
        samples = _given_samples(run, Path(wanted.features), wanted.feature_names, reporter)
    elif wanted.images is None:
        name = wanted.split or "test"
        source = f"split {name}"
        splits = run.splits(reporter)
        chosen = ("train", "val", "test") if name == "all" else (name,)
        samples = [sample for each in chosen for sample in getattr(splits, each)]
    else:
        name = title_of(wanted.images)
        listing = list_place(wanted.images)
        for warning in listing.warnings:
            reporter.warn(warning)
        warn_of_skipped(listing.skipped, reporter)
        samples = list(listing.train)
    if not samples:
        raise SqueezeError(f"No image of {name} can be read: see the warnings.")
    data = run.data({"images": samples}, reporter, use_store=wanted.images is None)
    manifest = Manifest(
        content=content, run=run.folder.name, run_digest=run.digest,
        source=source, images_digest=_digest(data.splits["images"]),
        precision=run.config.training.precision, coding=coding, levels=run.levels,
        dtype="float32" if content != "codes" else None, space=run.space,
    )  # fmt: skip

    def encode_codes(codes: Array, names: Sequence[str]) -> bytes:
        return run.encode(codes.astype(np.int32, copy=False), names, coding or "packed")

    default = run.folder.path / "embeddings" / f"{name}-{content}"
    folder = Path(wanted.out) if wanted.out else default
    given = None if wanted.features is None else Path(wanted.features).resolve()
    if given is not None and folder.resolve() in (given, given.parent):
        raise UsageError(f"{folder} holds the features that are given: choose another --out.")
    encode = encode_codes if content == "codes" else encode_embeddings
    with locked(folder, "choose another --out"):
        output = ShardedOutput(folder, manifest, encode, overwrite=wanted.overwrite)
        if not output.manifest.complete:
            _write_all(run, data, output, reporter)
    return _summary(run, output)


def _given_samples(
    run: TrainedRun, path: Path, names: str | Path | None, reporter: Reporter
) -> list[Sample]:
    """Return given features; raises SqueezeError where they do not fit the run or are no good."""
    samples, warnings = list_features(path, None if names is None else Path(names))
    for warning in warnings:
        reporter.warn(warning)
    given, checked = check_splits({"features": samples}, reporter)
    wanted = (*run.record.quantizer.grid, run.record.model.feature_dim)
    if given.shape != wanted:
        raise SqueezeError(
            f"The features in {path} are {shape_text(given.shape)} each, and those that "
            f"{run.folder.path} was trained on {shape_text(wanted)}: give features of the same backbone."
        )
    return list(checked["features"])


def _digest(samples: Sequence[Sample]) -> str:
    """Return sixteen hexadecimal digits of all names and contents, in order."""
    content = blake2b(digest_size=8)
    for sample in samples:
        content.update(f"{sample.name}\0{sample.digest()}\0".encode())
    return content.hexdigest()


def _write_all(
    run: TrainedRun, data: FeatureBatches, output: ShardedOutput, reporter: Reporter
) -> None:
    """Extract from the images that are not in `output` yet."""
    done, samples = output.manifest.images, data.splits["images"]
    output.manifest.require_names([sample.name for sample in samples[:done]], output.folder)
    with reporter.track("Extracting", len(samples)) as advance:
        advance(done, "")
        try:
            for batch in data.batches("images", data.origin.inference_batch, first=done):
                names = [samples[position].name for position in batch[2].tolist()]
                output.add(names, *_extract(run, data, batch, output.manifest.content))
                advance(len(names), "")
        except KeyboardInterrupt:
            output.flush()  # so that what is done is kept
            raise
    output.finish()


@torch.no_grad()
def _extract(
    run: TrainedRun, data: FeatureBatches, batch: Batch, content: Content
) -> tuple[Array, dict[str, float]]:
    """Return what is written of a batch, and sums for its distortion.

    The distortion is that of normalized features, as the quantizer sees them, without padding.
    """
    state, _, positions = batch
    if content == "features" and run.space == "backbone":
        last_layer = run.network.last_layer
        return (state if last_layer is None else last_layer(state)).float().cpu().numpy(), {}
    maps = run.network.features(state)
    if content == "features" or not run.code_sizes:
        return run.to_output(maps).float().cpu().numpy(), {}
    codes = run.codes(maps)
    decoded = run.features(codes)
    metric = ReconstructionMetrics().to(run.device)
    metric.update(maps, decoded, data.counted("images", positions, maps.shape[-2:]))
    sums = {name: float(getattr(metric, name)) for name in ("squared_error", "cosine", "vectors")}
    if content == "codes":
        return codes, sums
    return run.to_output(decoded).float().cpu().numpy(), sums


def _summary(run: TrainedRun, output: ShardedOutput) -> ExtractionSummary:
    manifest, size = output.manifest, output.manifest.bytes
    vectors = manifest.images * prod(run.record.quantizer.grid)
    pixels = None if manifest.source == "features" else run.config.data.pixels
    points = run.network.normalizer.mean.numel() * vectors
    float32_bytes = FLOAT32_BYTES * points
    summary = ExtractionSummary(
        run=manifest.run, out=str(output.folder), content=manifest.content, coding=manifest.coding,
        levels=manifest.levels, source=manifest.source, images=manifest.images, vectors=vectors,
        shards=len(manifest.shards), file_bytes=size, bytes_per_image=size / manifest.images,
        bits_per_feature_point=8 * size / points,
        bits_per_pixel=pixels and 8 * size / (manifest.images * pixels),
        compression_ratio_float32=float32_bytes / size,
        compression_ratio_float16=float32_bytes / 2 / size,
    )  # fmt: skip
    if run.code_sizes and manifest.content != "features":
        summary.mse = manifest.total("squared_error") / manifest.total("vectors")
        summary.cosine = manifest.total("cosine") / manifest.total("vectors")
    if manifest.content == "codes":
        prior = run.prior if manifest.coding == "prior" else None
        decoder = decoder_bytes(run.network, prior).total
        described = run.record.quantizer
        levels = len(run.code_sizes) / len(described.code_sizes)  # those of rvq are of one size
        summary.nominal_bits_per_vector = levels * described.nominal_bits_per_vector
        summary.bits_per_vector = 8 * size / vectors
        summary.decoder_bytes = decoder
        summary.compression_ratio_float32_with_decoder = float32_bytes / (size + decoder)
        summary.compression_ratio_float16_with_decoder = float32_bytes / 2 / (size + decoder)
    return summary
