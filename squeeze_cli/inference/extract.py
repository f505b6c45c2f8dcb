"""`squeeze extract-embeddings`: codes, quantized embeddings or features of many images as files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from squeeze_cli.codec.rates import FLOAT32_BYTES, decoder_bytes
from squeeze_cli.console import Reporter
from squeeze_cli.inference.evaluate import load_run, reconfigured
from squeeze_cli.inference.manifest import ShardedOutput
from squeeze_cli.inference.run_codec import RunCodec
from squeeze_cli.inference.shard_buffer import ShardBuffer, save_embeddings
from squeeze_cli.inference.streams import ImageStream, folder_stream, split_stream
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.devices import choose_device

# Images in a shard of codes.
CODES_PER_SHARD = 8192
FLOAT16_BYTES = 2


@dataclass(frozen=True)
class Request:
    """What to extract.

    Attributes:
        content: `codes`, `quantized` or `features`.
        split: `train`, `val`, `test` or `all`; None with `images`.
        images: a folder of images, instead of a split.
        coding: `prior` or `packed`; None takes the prior where the run has one.
        out: folder to write to; None chooses one in the run's.
        overwrite: start anew.
    """

    content: str = "codes"
    split: str | None = "test"
    images: Path | None = None
    coding: str | None = None
    out: Path | None = None
    overwrite: bool = False


def extract_embeddings(
    path: Path, request: Request, flags: Mapping[str, Any], reporter: Reporter
) -> dict[str, Any]:
    """Write what `request` asks for, and measure it.

    Args:
        path: a finished run's folder.
        request: what, of which images, where to.
        flags: what replaces the run's own configuration, by parameter name.
        reporter: for messages.

    Returns:
        What `--json` prints: `out`, sizes, rates and distortion.

    Raises SqueezeError and UsageError as their messages say.
    """
    config = reconfigured(RunFolder(path), flags)
    device = choose_device(config.training.device)
    run = load_run(path, device, config)
    codec = RunCodec(run.folder, config, run.record, run.module.network.eval(), device)
    if request.content == "codes":
        codec.require_codes()
    coding = request.coding or ("prior" if codec.has_prior else "packed")
    if request.images is None:
        stream = split_stream(run, request.split or "test", device, reporter)
        default = f"{request.split}-{request.content}"
    else:
        stream = folder_stream(run, request.images, device, reporter)
        default = f"{request.images.resolve().name}-{request.content}"
    folder = request.out or path / "embeddings" / default
    output = ShardedOutput(
        folder, _identity(codec, stream, request.content, coding), overwrite=request.overwrite
    )
    if not output.complete:
        _write_all(codec, stream, request.content, coding, output, reporter)
    return _summary(codec, output, request.content, coding, stream)


def _identity(codec: RunCodec, stream: ImageStream, content: str, coding: str) -> dict[str, Any]:
    return {
        "content": content,
        "run": codec.folder.name,
        "run_digest": codec.digest,
        "source": stream.source,
        "images_digest": stream.digest,
        "precision": codec.config.training.precision,
        "coding": coding if content == "codes" else None,
        "dtype": "float32" if content != "codes" else None,
        "space": codec.space,
    }


def _write_all(
    codec: RunCodec,
    stream: ImageStream,
    content: str,
    coding: str,
    output: ShardedOutput,
    reporter: Reporter,
) -> None:
    if content == "codes":
        buffer = ShardBuffer(
            output,
            lambda path, codes, names: path.write_bytes(codec.encode(codes, list(names), coding)),
            max_images=CODES_PER_SHARD,
        )
    else:
        buffer = ShardBuffer(output, save_embeddings)
    with reporter.track("Extracting", len(stream.names)) as advance:
        advance(output.images, "")
        try:
            for names, state in stream.states(output.images):
                buffer.add(names, *_extract(codec, state, content))
                advance(len(names), "")
        except KeyboardInterrupt:
            buffer.flush()  # what is done is kept
            raise
        buffer.flush()
    output.finish()


@torch.no_grad()
def _extract(codec: RunCodec, state: Tensor, content: str) -> tuple[np.ndarray, dict[str, float]]:
    """What is written of a batch, and sums of its distortion: of normalized features, as the
    quantizer sees them."""
    if content == "features":
        return codec.raw_features(state).float().cpu().numpy(), {}
    maps = codec.network.features(state)
    if not codec.code_sizes:
        return codec.to_output(maps).float().cpu().numpy(), {}
    codes = codec.codes(maps)
    decoded = codec.features(codes)
    error = (decoded - maps).square().mean(dim=1)
    cosine = torch.nn.functional.cosine_similarity(decoded, maps, dim=1)
    sums = {
        "squared_error": float(error.cpu().double().sum()),
        "cosine": float(cosine.cpu().double().sum()),
        "vectors": float(error.numel()),
    }
    if content == "codes":
        return codes, sums
    return codec.to_output(decoded).float().cpu().numpy(), sums


def _summary(
    codec: RunCodec, output: ShardedOutput, content: str, coding: str, stream: ImageStream
) -> dict[str, Any]:
    rows, columns = codec.grid
    images, size = output.images, output.shard_bytes
    vectors = images * rows * columns
    channels = codec.network.normalizer.mean.numel()
    result: dict[str, Any] = {
        "run": codec.folder.name,
        "out": str(output.folder),
        "content": content,
        "coding": coding if content == "codes" else None,
        "source": stream.source,
        "images": images,
        "vectors": vectors,
        "shards": len(output.shards),
        "file_bytes": size,
        "bytes_per_image": size / images,
        "compression_ratio_float32": FLOAT32_BYTES * channels * vectors / size,
        "compression_ratio_float16": FLOAT16_BYTES * channels * vectors / size,
    }
    if codec.code_sizes and content != "features":
        count = output.total("vectors")
        result |= {
            "mse": output.total("squared_error") / count,
            "cosine": output.total("cosine") / count,
        }
    if content == "codes":
        decoder = decoder_bytes(codec.network.quantizer, codec.prior if coding == "prior" else None)
        needed = size + sum(decoder.values())
        result |= {
            "nominal_bits_per_vector": codec.network.quantizer.nominal_bits_per_vector,
            "bits_per_vector": 8 * size / vectors,
            "decoder_bytes": sum(decoder.values()),
            "compression_ratio_float32_with_decoder": FLOAT32_BYTES * channels * vectors / needed,
            "compression_ratio_float16_with_decoder": FLOAT16_BYTES * channels * vectors / needed,
        }
    return result
