"""A fitted prior in whole numbers: 8-bit weights, activations within the limits of `prior.py`.

Every layer's numbers are its float ones times a scale. The scales are chosen from the outputs' end
where they must meet a unit (256 logit steps a nat), and from the weights' largest entry elsewhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
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
    SymbolModel,
)

if TYPE_CHECKING:
    from squeeze_cli.codec.prior_fitting import SymbolNetwork


def weight_scale(values: Tensor) -> float:
    """The scale that brings the largest entry to the limit of weights."""
    return WEIGHT_LIMIT / max(float(values.abs().max()), 1e-6)


def rounded_weights(values: Tensor, scale: float) -> Array:
    """Weights times `scale` as int8."""
    return _rounded(values * scale, WEIGHT_LIMIT, np.int8)


def round_symbol(
    network: SymbolNetwork, q: int, inputs_bnpe: Tensor, own_bnqe: Tensor, embedding_scale: float
) -> SymbolModel:
    """One code's network in whole numbers; the inputs are a sample of what it will see."""
    hidden = network.hidden(q, inputs_bnpe, own_bnqe).relu().flatten(0, 1)
    query = network.query(hidden)
    gate = 1 + network.gate(hidden)

    first = network.first.weight.view(HIDDEN_UNITS, -1, inputs_bnpe.shape[-1]).permute(1, 2, 0)
    first_scale = weight_scale(first)
    weights = rounded_weights(first, first_scale)
    table_shift = _shift(_largest_product(weights), TABLE_LIMIT)
    scale = first_scale * embedding_scale / 2**table_shift
    hidden_shift = _shift(_high(hidden) * scale, HIDDEN_LIMIT)
    places = [network.row + network.first.bias, network.column]
    # A shift rounds down: half a unit is put back, once for the sum of the table's entries.
    lost = 0.5 * len(weights) if table_shift else 0.0
    row_bias, column_bias = (
        _rounded(places[0] * scale + lost, BIAS_LIMIT, np.int32),
        _rounded(places[1] * scale, BIAS_LIMIT, np.int32),
    )
    hidden_scale = scale / 2**hidden_shift

    output_scale = weight_scale(network.outputs)
    query_weight_scale, query_shift, logit_shift = _query_scales(
        network, query, hidden_scale, output_scale
    )
    logit_scale = STEPS_PER_NAT * 2**logit_shift
    # The gate is multiplied by the bonus: what one has too little, the other has more.
    gate_weight_scale = weight_scale(network.gate.weight)
    gate_raw = gate_weight_scale * hidden_scale
    gate_shift = _shift(_high(gate.abs()) * gate_raw, GATE_LIMIT)
    gate_scale = gate_raw / 2**gate_shift
    bonus = network.bonus(torch.arange(COUNT_LIMIT + 1.0)) * logit_scale / gate_scale
    return SymbolModel(
        weights=weights,
        row_bias=row_bias,
        column_bias=column_bias,
        query_weights=rounded_weights(network.query.weight.T, query_weight_scale),
        query_bias=_rounded(
            network.query.bias * query_weight_scale * hidden_scale, BIAS_LIMIT, np.int32
        ),
        gate_weights=rounded_weights(network.gate.weight[0], gate_weight_scale),
        gate_bias=_rounded((1 + network.gate.bias) * gate_raw, BIAS_LIMIT, np.int32),
        outputs=rounded_weights(network.outputs, output_scale),
        output_bias=_rounded(
            (network.output_bias - network.output_bias.max()) * logit_scale, BIAS_LIMIT, np.int32
        ),
        bonus=_rounded(bonus, BIAS_LIMIT // GATE_LIMIT, np.int32),
        shifts=np.asarray(
            [table_shift, hidden_shift, query_shift, gate_shift, logit_shift], np.int32
        ),
    )


def _query_scales(
    network: SymbolNetwork, query: Tensor, hidden_scale: float, output_scale: float
) -> tuple[float, int, int]:
    """Scale of the query's weights, the query's shift, and the logits' shift.

    The logits' scale, query scale times output scale, must be 256 a nat times a power of two: the
    weights take up what is missing, which costs them less than a bit.
    """
    largest = weight_scale(network.query.weight)
    shift = _shift(_high(query.abs()) * largest * hidden_scale, QUERY_LIMIT)
    fitting = largest * hidden_scale / 2**shift * output_scale / STEPS_PER_NAT
    logit_shift = max(0, math.floor(math.log2(fitting))) if fitting > 0 else 0
    query_scale = STEPS_PER_NAT * 2**logit_shift / output_scale
    return query_scale * 2**shift / hidden_scale, shift, logit_shift


def _high(values: Tensor) -> float:
    """What hardly any activation exceeds; those that do are clipped."""
    flat = values.flatten()
    rank = max(1, math.ceil(0.9999 * len(flat)))
    return float(flat.kthvalue(rank).values) + 1e-6


def _shift(largest: float, limit: int) -> int:
    """The right shift that brings `largest` below `limit`."""
    return max(0, math.ceil(math.log2(max(largest, 1e-9) / limit)))


def _largest_product(weights_peh: Array) -> float:
    """A bound of any product of an embedding with these weights."""
    return float(np.abs(weights_peh.astype(np.int32)).sum(axis=1).max()) * WEIGHT_LIMIT


def _rounded(values: Tensor, limit: int, dtype: Any) -> Array:
    whole = values.detach().double().round().clamp(-limit, limit)
    return np.ascontiguousarray(whole.numpy().astype(dtype))
