"""What a finished run leaves besides weights: codes of the validation split."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from squeeze_cli.files import replacing
from squeeze_cli.runs import RunFolder

if TYPE_CHECKING:
    from squeeze_cli.training.fit import Experiment


@torch.no_grad()
def save_validation_codes(run: RunFolder, experiment: Experiment) -> None:
    """Save `codes/val.safetensors` and `codes/first_batch.safetensors`.

    The first holds `codes` `[N, h, w, Q]` (int32) of all validation images, in the order of the
    names in its metadata; the second `features` `[B, C, h, w]` (normalized), `quantized` of the
    same shape and `codes` of the first batch, to look at.
    """
    network = experiment.module.network.eval().to(experiment.device)
    batch_size = experiment.config.training.batch_size
    names = [sample.name for sample in experiment.splits.val]
    all_codes: list[Tensor] = []
    for inputs, _, _ in experiment.sources.loader("val", batch_size):
        state = experiment.module.states(inputs.to(experiment.device))
        maps = network.features(state)
        tokens = maps.permute(0, 2, 3, 1).flatten(1, 2)
        quantized = network.quantizer(tokens.float())
        codes = quantized.codes.unflatten(1, maps.shape[-2:]).int().cpu()
        if not all_codes:
            first = {
                # A copy: without a quantizer both are the same memory, which safetensors refuses.
                "features": maps.float().cpu().contiguous().clone(),
                "quantized": quantized.features.unflatten(1, maps.shape[-2:])
                .permute(0, 3, 1, 2).cpu().contiguous(),
                "codes": codes.contiguous(),
            }  # fmt: skip
            _save(run, "first_batch", first, names[: len(codes)])
        all_codes.append(codes)
    _save(run, "val", {"codes": torch.cat(all_codes).contiguous()}, names)


def _save(run: RunFolder, name: str, tensors: dict[str, Tensor], names: list[str]) -> None:
    from safetensors.torch import save_file

    with replacing(run.codes_folder / f"{name}.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"names": json.dumps(names, ensure_ascii=False)})
