"""Measurements of trained weights: metrics of a split, and the size of its codes."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from squeeze_cli.codec.container import encode_codes
from squeeze_cli.codec.index import find_blocks
from squeeze_cli.codec.prior import Prior
from squeeze_cli.codec.prior_files import read_prior
from squeeze_cli.codec.range_coding import Slots
from squeeze_cli.config.record import (
    DecoderBytes,
    FinishedRecord,
    LevelsRecord,
    Measured,
    MeasuredSplit,
    RunRecord,
    SplitMetrics,
)
from squeeze_cli.console import Reporter
from squeeze_cli.features.datamodule import FeatureBatches
from squeeze_cli.model.network import SegmentationNetwork
from squeeze_cli.quantizers.base import FLOAT32_BITS
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.callbacks import ReportedProgress
from squeeze_cli.training.devices import create_trainer, quiet_libraries
from squeeze_cli.training.experiment import Experiment, load_trained
from squeeze_cli.training.metrics import FeatureComparison, Values
from squeeze_cli.training.modules import FeatureModule

MEASURED_SPLITS = ("val", "test")
FLOAT32_BYTES = FLOAT32_BITS // 8


def encode_split(
    experiment: Experiment, split: str, codes_nhwq: NDArray[np.int32], digest: str,
    prior: Prior | None,
) -> tuple[bytes, MeasuredSplit]:  # fmt: skip
    """Return the codes file of a split, made by the run with this digest, and its sizes."""
    network = experiment.module.network
    names = [sample.name for sample in getattr(experiment.splits, split)]
    slots = None if prior is None else prior.slots(codes_nhwq)
    content = encode_codes(
        codes_nhwq, names, quantizer=experiment.config.quantizer.type,
        code_sizes=network.quantizer.code_sizes, run=digest, prior=prior, slots=slots,
    )  # fmt: skip
    sizes = measure_codes(
        content, codes_nhwq, network.normalizer.mean.numel(), slots,
        vectors=experiment.backbone.vectors_per_image * len(names), pixels=experiment.config.data.pixels,
    )  # fmt: skip
    return content, sizes


def measure_codes(
    content: bytes, codes_nhwq: NDArray[np.integer], feature_dim: int, slots: Slots | None, *,
    vectors: int, pixels: int | None,
) -> MeasuredSplit:  # fmt: skip
    """Measure a codes file by all bytes of its `content`; docs/run-record.md describes the fields.

    `slots` are those that the prior gives the codes, or None if they are packed. The compression
    ratio is to `feature_dim` channels of float32. `vectors` is the number of feature vectors, and
    `pixels` that of pixels per image that the backbone sees, or None for given features.
    """
    images, bits = len(codes_nhwq), 8 * len(content)
    payload = len(content) - find_blocks(content)[1]
    return MeasuredSplit(
        coding="packed" if slots is None else "prior", images=images, vectors=vectors,
        file_bytes=len(content), payload_bytes=payload, bits_per_vector=bits / vectors,
        payload_bits_per_vector=8 * payload / vectors,
        prior_cross_entropy_bits=None if slots is None else slots.bits / vectors,
        bits_per_feature_point=bits / (vectors * feature_dim),
        bits_per_pixel=pixels and bits / (images * pixels), bytes_per_image=len(content) / images,
        compression_ratio=FLOAT32_BYTES * feature_dim * vectors / len(content), file="",
    )  # fmt: skip


def decoder_bytes(network: SegmentationNetwork, prior: Prior | None) -> DecoderBytes:
    """Measure the data that a decoder needs once for all images: the learned codebooks and the linear
    maps after them as float32, and the prior as stored."""
    quantizer, blocks = network.quantizer, network.blocks
    if size := quantizer.codec_bytes:
        return DecoderBytes(codebook_bytes=size, projection_bytes=0, prior_bytes=0)
    maps = [quantizer.output_map(), *([] if blocks is None else [blocks.output_map()])]
    return DecoderBytes(
        codebook_bytes=FLOAT32_BYTES * quantizer.codebook_values,
        projection_bytes=FLOAT32_BYTES * sum(m.weight.numel() + m.bias.numel() for m in maps),
        prior_bytes=0 if prior is None else sum(a.nbytes for a in prior.arrays().values()),
    )


@torch.no_grad()
def split_codes(experiment: Experiment, split: str) -> NDArray[np.int32]:
    """Return the codes `[n, h, w, Q]` of the images of a split."""
    encode, maps = experiment.module.network.codes, feature_maps(experiment, split)
    return np.concatenate([encode(batch).int().cpu().numpy() for batch in maps])


@torch.no_grad()
def feature_maps(experiment: Experiment, split: str) -> Iterator[Tensor]:
    """Yield the features `[B, C, h, w]` of a split in order."""
    for states, _, _ in experiment.data.batches(split, experiment.config.training.batch_size):
        yield experiment.module.network.features(states)


def evaluate(
    module: FeatureModule, data: FeatureBatches, split: str, device: torch.device,
    reporter: Reporter, *, alone: bool = False, label: str = "",
    comparison: FeatureComparison | None = None,
) -> Values:  # fmt: skip
    """Return losses and metrics of the module on a whole split of `data`; trackers get none of them.

    With `alone` a single process is used, whatever the configuration says. Progress is shown if it has a
    `label`. A `comparison`, which needs codes and a single process, is added to the metrics.
    """
    data.test_split = split
    if comparison is not None:
        module.test_metrics.add_metrics({"comparison": comparison})
    with quiet_libraries(verbose=reporter.verbose):
        trainer = create_trainer(
            module.config.training, device, callbacks=[ReportedProgress(reporter, label)], alone=alone,
        )  # fmt: skip
        trainer.test(module, datamodule=data, verbose=False)
    if comparison is not None:
        module.test_metrics.pop("comparison")
    return module.results["test"]


def measure_levels(
    run: RunFolder, experiment: Experiment, record: RunRecord, reporter: Reporter
) -> list[LevelsRecord]:
    """Measure codes of the first levels only, for each number below all of them, on `val` and `test`.

    `record` includes the results of `save_codes`; prior and weights are read from the run's folder.
    """
    config, data, device = experiment.config, experiment.data, experiment.device
    finished = FinishedRecord.model_validate(record.model_dump(exclude_unset=True))
    assert finished.measured is not None
    assert finished.digest is not None
    prior = read_prior(run.prior_file) if finished.measured.prior_digest else None
    found = []
    for levels in range(1, config.quantizer.num_quantizers):
        module = load_trained(run, finished, config, experiment.backbone, levels).to(device)
        part, metrics, sizes = replace(experiment, module=module), {}, {}
        for split in MEASURED_SPLITS:
            values = evaluate(module, data, split, device, reporter, alone=True)
            metrics[split] = SplitMetrics.model_validate(values)
            codes = split_codes(part, split)
            sizes[split] = encode_split(part, split, codes, finished.digest, prior)[1]
        decoder = decoder_bytes(module.network, prior)
        measured = Measured(**sizes, decoder=decoder, prior_digest=finished.measured.prior_digest)
        found.append(LevelsRecord(levels=levels, **metrics, measured=measured))
    return found
