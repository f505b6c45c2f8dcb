"""Saving of the prior and of the codes files of a trained network."""

import json

import numpy as np
import torch
from numpy.typing import NDArray

from squeeze_cli.codec.prior_files import write_prior
from squeeze_cli.config.record import Measured, MeasuredSplit, RunRecord
from squeeze_cli.console import Reporter
from squeeze_cli.files import write_atomically
from squeeze_cli.runs import RunFolder
from squeeze_cli.training.experiment import Experiment
from squeeze_cli.training.measure import (
    MEASURED_SPLITS,
    decoder_bytes,
    encode_split,
    feature_maps,
    split_codes,
)


def save_codes(
    run: RunFolder, experiment: Experiment, record: RunRecord, reporter: Reporter
) -> list[NDArray[np.int64]]:
    """Fit the prior to the training codes and save it with the codes of `val` and `test`.

    Sets `digest` and `measured` of the record; without a quantizer `measured` is None. Returns the counts
    of the values in `test` for each of a vector's codes.
    """
    network = experiment.module.network
    digest, record.measured = network.digest(), None
    _save_first_batch(run, experiment)
    if not network.quantizer.code_sizes:
        record.digest = digest
        return []
    codes = {split: split_codes(experiment, split) for split in ("train", *MEASURED_SPLITS)}
    prior = network.quantizer.fit_prior(
        codes["train"], reporter, seed=experiment.config.training.seed,
        prefixes=experiment.config.quantizer.quantizer_dropout,
    )  # fmt: skip
    if prior is not None:
        write_prior(run.prior_file, prior)
    measured: dict[str, MeasuredSplit] = {}
    for split in MEASURED_SPLITS:
        content, measured[split] = encode_split(experiment, split, codes[split], digest, prior)
        write_atomically(run.codes_folder / f"{split}.sqz", content)
        measured[split].file = f"codes/{split}.sqz"
    record.digest = digest  # only a run with all of its files has one
    record.measured = Measured(
        **measured, decoder=decoder_bytes(network, prior),
        prior_digest=None if prior is None else prior.digest,
    )  # fmt: skip
    return [
        np.bincount(codes["test"][..., level].ravel(), minlength=size)
        for level, size in enumerate(network.quantizer.counted_sizes)
    ]


@torch.no_grad()
def _save_first_batch(run: RunFolder, experiment: Experiment) -> None:
    """Write `codes/first_batch.safetensors` for inspection: of the first validation batch, `features`
    `[B, C, h, w]` (normalized), `quantized` of the same shape and `codes` `[B, rows, columns, Q]`."""
    from safetensors.torch import save

    maps = next(feature_maps(experiment, "val"))
    network = experiment.module.network
    coded = bool(network.quantizer.code_sizes)
    quantized = network.decoded(network.quantize(maps)) if coded else maps
    tensors = {
        # Cloned, because safetensors refuses tensors that share memory, as without a quantizer.
        "features": maps.float().cpu().contiguous().clone(),
        "quantized": quantized.float().cpu().contiguous(),
        "codes": network.codes(maps).int().cpu().contiguous(),
    }
    names = [sample.name for sample in experiment.splits.val[: len(maps)]]
    content = save(tensors, {"names": json.dumps(names, ensure_ascii=False)})
    write_atomically(run.codes_folder / "first_batch.safetensors", content)
