"""Fitting of a prior to training codes: a float network, which is then rounded to integers.

Each layer's integers are its float values times a scale: 8-bit weights, and activations within the
limits of `prior.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from squeeze_cli.codec.prior import (
    BIAS_LIMIT,
    COUNT_LIMIT,
    GATE_LIMIT,
    HIDDEN_LIMIT,
    HIDDEN_UNITS,
    QUERY_LIMIT,
    STEPS_PER_NAT,
    TABLE_LIMIT,
    WEIGHT_LIMIT,
    Array,
    CodePrior,
    SymbolModel,
)
from squeeze_cli.codec.prior_network import PriorNetwork, SymbolNetwork

# With larger codes the prior would exceed what it saves, and its softmax would be slow.
LARGEST_CODE = 4096
VECTORS_PER_STEP = 1200
PASSES = 12
LARGEST_STEPS = 400
# Number of vectors whose activations decide the scales of the integers.
SAMPLE_VECTORS = 2048
_LR = 3e-3
_WEIGHT_DECAY = 0.02


def can_have_prior(code_sizes: Sequence[int]) -> bool:
    """Whether codes of these sizes are few enough for a prior."""
    return bool(code_sizes) and max(code_sizes) <= LARGEST_CODE


def fit_prior(
    codes_nhwq: NDArray[np.integer],
    code_vectors: Sequence[Tensor],
    *,
    seed: int = 0,
    advance: Callable[[int, str], None] = lambda steps, text: None,
) -> CodePrior:
    """Fit a prior to the codes of training images.

    This takes about 5 seconds on two cores for one code of 512 values per vector, and four times as
    long for four codes of 256 values.

    Args:
        codes_nhwq: `[n, h, w, Q]`, n at least 1.
        code_vectors: vectors `[K_q, d]` of the values of each code, from which the network starts.
        seed: seed for initial weights, order and dropout.
        advance: function that is called after each of the `fitting_steps`.
    """
    rows, columns = codes_nhwq.shape[1:3]
    codes = torch.from_numpy(codes_nhwq.astype(np.int64))
    both = torch.cat([codes, codes.flip(2)])  # a mirrored image is as likely
    images = max(1, min(len(both), VECTORS_PER_STEP // max(1, rows * columns)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PriorNetwork(codes, code_vectors)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=_LR, weight_decay=_WEIGHT_DECAY, fused=True
        )
        steps = fitting_steps(codes_nhwq.shape)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, _LR, total_steps=max(2, steps), pct_start=0.1
        )
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(steps):
            if len(order) < images:
                order = torch.cat([order, torch.randperm(len(both))])
            batch, order = both[order[:images]], order[images:]
            optimizer.zero_grad()
            network.loss(batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            advance(1, "")
    sample = math.ceil(SAMPLE_VECTORS / (rows * columns))
    return round_prior(network.eval(), both[:sample])


def fitting_steps(shape: Sequence[int]) -> int:
    """Return the number of optimizer steps for codes of the shape `[n, h, w, Q]`."""
    vectors = shape[0] * shape[1] * shape[2]
    return min(LARGEST_STEPS, max(1, math.ceil(PASSES * vectors / VECTORS_PER_STEP)))


@torch.no_grad()
def round_prior(network: PriorNetwork, sample_bhwq: Tensor) -> CodePrior:
    """Round a network to integers; the codes of the sample show how large activations become."""
    scale = min(_weight_scale(table) for table in network.embeddings)
    inputs, own = network.context(sample_bhwq)
    symbols = [
        _round_symbol(cast(SymbolNetwork, symbol), inputs, own, scale) for symbol in network.symbols
    ]
    tables = [_round(table * scale, WEIGHT_LIMIT, np.int8) for table in network.embeddings]
    return CodePrior(network.code_sizes, tuple(tables), tuple(symbols))


def _round_symbol(
    network: SymbolNetwork, inputs_bnpe: Tensor, own_bnqe: Tensor, embedding_scale: float
) -> SymbolModel:
    hidden = network.hidden(inputs_bnpe, own_bnqe).relu().flatten(0, 1)
    query = network.query(hidden)
    gate = 1 + network.gate(hidden)

    first = network.first.weight.view(HIDDEN_UNITS, -1, inputs_bnpe.shape[-1]).permute(1, 2, 0)
    first_scale = _weight_scale(first)
    weights = _round(first * first_scale, WEIGHT_LIMIT, np.int8)
    # No product of an embedding with these weights exceeds this bound.
    bound = float(np.abs(weights.astype(np.int32)).sum(axis=1).max()) * WEIGHT_LIMIT
    table_shift = _shift(bound, TABLE_LIMIT)
    scale = first_scale * embedding_scale / 2**table_shift
    # A shift rounds down: half a unit per entry of the table is added to the sum of the entries.
    lost = 0.5 * len(weights) if table_shift else 0.0
    hidden_shift = _shift(_high(hidden) * scale, HIDDEN_LIMIT)
    hidden_scale = scale / 2**hidden_shift

    # The scale of the logits, query scale times output scale, must be 256 steps per nat times a
    # power of two. The query's weights are scaled to meet it, at a cost of less than a bit.
    output_scale = _weight_scale(network.outputs)
    largest = _weight_scale(network.query.weight) * hidden_scale
    query_shift = _shift(_high(query.abs()) * largest, QUERY_LIMIT)
    fitting = largest / 2**query_shift * output_scale / STEPS_PER_NAT
    logit_shift = max(0, math.floor(math.log2(fitting))) if fitting > 0 else 0
    logit_scale = STEPS_PER_NAT * 2**logit_shift
    query_scale = logit_scale / output_scale * 2**query_shift / hidden_scale
    # The gate is multiplied by the bonus, whose scale makes up for that of the gate.
    gate_weight_scale = _weight_scale(network.gate.weight)
    gate_raw = gate_weight_scale * hidden_scale
    gate_shift = _shift(_high(gate.abs()) * gate_raw, GATE_LIMIT)
    bonus = network.bonus(torch.arange(COUNT_LIMIT + 1.0)) * logit_scale
    output_bias = network.output_bias - network.output_bias.max()
    shifts = (table_shift, hidden_shift, query_shift, gate_shift, logit_shift)
    return SymbolModel(
        weights=weights,
        row_bias=_round((network.row + network.first.bias) * scale + lost, BIAS_LIMIT),
        column_bias=_round(network.column * scale, BIAS_LIMIT),
        query_weights=_round(network.query.weight.T * query_scale, WEIGHT_LIMIT, np.int8),
        query_bias=_round(network.query.bias * query_scale * hidden_scale, BIAS_LIMIT),
        gate_weights=_round(network.gate.weight[0] * gate_weight_scale, WEIGHT_LIMIT, np.int8),
        gate_bias=_round((1 + network.gate.bias) * gate_raw, BIAS_LIMIT),
        outputs=_round(network.outputs * output_scale, WEIGHT_LIMIT, np.int8),
        output_bias=_round(output_bias * logit_scale, BIAS_LIMIT),
        bonus=_round(bonus / (gate_raw / 2**gate_shift), BIAS_LIMIT // GATE_LIMIT),
        shifts=np.asarray(shifts, np.int32),
    )


def _weight_scale(values: Tensor) -> float:
    """Return the scale that brings the largest entry to the limit of weights."""
    return WEIGHT_LIMIT / max(float(values.abs().max()), 1e-6)


def _high(values: Tensor) -> float:
    """Return a bound of nearly all activations; larger ones are clipped."""
    flat = values.flatten()
    rank = max(1, math.ceil(0.9999 * len(flat)))
    return float(flat.kthvalue(rank).values) + 1e-6


def _shift(largest: float, limit: int) -> int:
    """Return the right shift that brings `largest` below `limit`."""
    return max(0, math.ceil(math.log2(max(largest, 1e-9) / limit)))


def _round(values: Tensor, limit: int, dtype: DTypeLike = np.int32) -> Array:
    whole = values.detach().double().round().clamp(-limit, limit)
    return np.ascontiguousarray(whole.numpy().astype(dtype))
