"""Fitting of a prior to training codes: a float network, which is then rounded to integers.

Each layer's integers are its float values times a scale: 8-bit weights, and activations within the
limits of `prior.py`.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import cast

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from squeeze_cli.codec.prior import (
    BIAS_LIMIT,
    COUNT_LIMIT,
    EMBEDDING_DIM,
    GATE_LIMIT,
    HIDDEN_LIMIT,
    HIDDEN_UNITS,
    OFFSETS,
    QUERY_LIMIT,
    TABLE_LIMIT,
    WEIGHT_LIMIT,
    Array,
    CodePrior,
    SymbolModel,
    context_of,
    pad_codes,
)
from squeeze_cli.codec.range_coding import STEPS_PER_NAT

# A prior for codes of more values would take more bytes than it saves, and its softmax would be slow.
LARGEST_CODE = 4096
VECTORS_PER_STEP = 1200
PASSES = 24
LARGEST_STEPS = 400
# Number of vectors whose activations decide the scales of the integers.
SAMPLE_VECTORS = 2048
_LR = 3e-3
_WEIGHT_DECAY = 0.02
# A few hundred images have fewer codes than the network has weights: it needs dropout; that of its
# embeddings too would cost time and bits (docs/performance.md).
_HIDDEN_DROPOUT = 0.5
# Files of the first codes, and of all codes, are then within 1 % of the size with their own prior.
_PREFIX_WEIGHT = 0.3
# Standard deviation of the random entries of embeddings; that of the entries from code vectors is 1.
_EXTRA_SPREAD = 0.3
_FEW_LEVELS = 16


def can_have_prior(code_sizes: Sequence[int]) -> bool:
    """Return whether a prior is fitted to codes of these sizes."""
    return bool(code_sizes) and max(code_sizes) <= LARGEST_CODE


def fit_prior(
    codes_nhwq: NDArray[np.integer], code_vectors: Sequence[Tensor], *, seed: int = 0,
    prefixes: bool = False, advance: Callable[[int, str], None] = lambda steps, text: None,
) -> CodePrior:  # fmt: skip
    """Fit a prior to the codes `[n, h, w, Q]` of training images, n at least 1.

    This takes about 5 seconds on two cores for one code per vector of 512 values. The network starts
    from the vectors `[K_q, d]` of each code's values, and computes on their device if it is a GPU;
    `advance` follows each of the `fitting_steps`. With `prefixes` each step also learns from a random
    number of first codes of each vector, so that their files are small.
    """
    vectors = codes_nhwq[0, ..., 0].size
    codes = torch.from_numpy(codes_nhwq.astype(np.int64))
    both = torch.cat([codes, codes.flip(2)])  # a mirrored image is as likely
    images = max(1, min(len(both), VECTORS_PER_STEP // vectors))
    gpus = [v.device for v in code_vectors[:1] if v.device.type == "cuda"]
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        network = PriorNetwork(codes, code_vectors).to(gpus[0] if gpus else "cpu")
        parameters = network.parameters()
        optimizer = torch.optim.AdamW(parameters, _LR, weight_decay=_WEIGHT_DECAY, fused=True)
        steps = fitting_steps(codes_nhwq.shape)
        # OneCycleLR divides by 0 if a tenth of the steps is a single step.
        total_steps = 11 if steps == 10 else max(2, steps)
        schedule = OneCycleLR(optimizer, _LR, total_steps=total_steps, pct_start=0.1)
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(steps):
            if len(order) < images:
                order = torch.cat([order, torch.randperm(len(both))])
            batch, order = both[order[:images]], order[images:]
            optimizer.zero_grad()
            loss = network.loss(batch)
            if prefixes:
                first = int(torch.randint(1, batch.shape[3], ()))
                loss = loss + _PREFIX_WEIGHT * network.loss(batch[..., :first])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            advance(1, "")
    return round_prior(network.eval().cpu(), both[: math.ceil(SAMPLE_VECTORS / vectors)])


def fitting_steps(shape: Sequence[int]) -> int:
    """Return the number of optimizer steps for codes of the shape `[n, h, w, Q]`."""
    steps = math.ceil(PASSES * math.prod(shape[:3]) / VECTORS_PER_STEP)
    return min(LARGEST_STEPS, max(1, steps))


class PriorNetwork(nn.Module):
    """Float counterpart of `CodePrior`, initialized from the codes `[n, h, w, Q]` of training images
    and the vectors `[K_q, d]` of each code's values."""

    def __init__(self, codes_nhwq: Tensor, code_vectors: Sequence[Tensor]) -> None:
        super().__init__()
        self.code_sizes = tuple(len(vectors) for vectors in code_vectors)
        self.grid = (codes_nhwq.shape[1], codes_nhwq.shape[2])
        starts = _starting_embeddings(code_vectors)
        self.embeddings = nn.ParameterList(
            torch.cat([start, torch.zeros(1, EMBEDDING_DIM)]) for start in starts
        )
        self.symbols = nn.ModuleList(
            SymbolNetwork(q, self.grid, start, codes_nhwq[..., q]) for q, start in enumerate(starts)
        )

    def loss(self, codes_bhwq: Tensor) -> Tensor:
        """Return the mean cross entropy in nats per code; later codes of a vector may be missing."""
        around, own = self.context(codes_bhwq)
        codes = codes_bhwq.flatten(1, 2).to(around.device).unbind(dim=2)
        losses = [
            F.cross_entropy(symbol(around, own, codes_bn), codes_bn.flatten())
            for symbol, codes_bn in zip(self.symbols, codes, strict=False)
        ]
        return torch.stack(losses).mean()

    def context(self, codes_bhwq: Tensor) -> tuple[Tensor, Tensor]:
        """Embed the neighbours `[B, N, P, E]` and each vector's own codes `[B, N, Q - 1, E]`."""
        padded = pad_codes(codes_bhwq.numpy(), self.code_sizes)
        tables = list(self.embeddings)
        codes = torch.from_numpy(context_of(padded, *np.indices(self.grid)))
        codes = codes.flatten(1, 2).to(tables[0].device)
        embedded = [F.embedding(codes[:, :, :-1, q], table) for q, table in enumerate(tables)]
        around = reduce(torch.add, embedded)
        # No other code of the vector depends on its last one.
        own = [F.embedding(codes[:, :, -1, q], table) for q, table in enumerate(tables[:-1])]
        return around, torch.stack(own, dim=2) if own else around[:, :, :0]


class SymbolNetwork(nn.Module):
    """Float counterpart of `SymbolModel` for code `q`."""

    def __init__(self, q: int, grid: tuple[int, int], start_ke: Tensor, codes_nhw: Tensor) -> None:
        super().__init__()
        self.q = q
        self.first = nn.Linear((len(OFFSETS) + q) * EMBEDDING_DIM, HIDDEN_UNITS)
        self.row = nn.Parameter(torch.zeros(grid[0], HIDDEN_UNITS))
        self.column = nn.Parameter(torch.zeros(grid[1], HIDDEN_UNITS))
        self.query = nn.Linear(HIDDEN_UNITS, EMBEDDING_DIM)
        self.outputs = nn.Parameter(start_ke / start_ke.std(correction=0).clamp_min(1e-6))
        counts = torch.bincount(codes_nhw.flatten(), minlength=len(start_ke)).float() + 0.5
        self.output_bias = nn.Parameter((counts / counts.sum()).log())
        self.gate = nn.Linear(HIDDEN_UNITS, 1)
        # Gain of a code that the image has used, and gain for each doubling of its count + 1.
        self.seen_bonus = nn.Parameter(torch.zeros(()))
        self.count_bonus = nn.Parameter(torch.zeros(()))

    def hidden(self, inputs_bnpe: Tensor, own_bnqe: Tensor) -> Tensor:
        """Return the hidden units `[B, N, H]` before ReLU."""
        inputs = torch.cat([inputs_bnpe, own_bnqe[:, :, : self.q]], dim=2).flatten(2)
        hidden: Tensor = self.first(inputs) + (self.row[:, None] + self.column).flatten(0, 1)
        return hidden

    def forward(self, inputs_bnpe: Tensor, own_bnqe: Tensor, codes_bn: Tensor) -> Tensor:
        """Return the logits `[B * N, K]`."""
        hidden = F.relu(self.hidden(inputs_bnpe, own_bnqe))
        hidden = F.dropout(hidden, _HIDDEN_DROPOUT, self.training).flatten(0, 1)
        logits = torch.addmm(self.output_bias, self.query(hidden), self.outputs.T)
        values, counts = _counts_before(codes_bn, len(self.outputs))
        bonus = self.bonus(counts).flatten(0, 1) * (1 + self.gate(hidden))
        columns = values[:, None].expand_as(counts).flatten(0, 1)
        return logits.scatter_add_(1, columns, bonus)

    def bonus(self, counts: Tensor) -> Tensor:
        """Return the logits that codes gain by their counts if the gate is 1."""
        return self.seen_bonus * counts.clamp(max=1) + self.count_bonus * (counts + 1).log2()


def _counts_before(codes_bn: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the values `[B, D]` that an image uses, and their counts `[B, N, D]` before each vector,
    up to `COUNT_LIMIT`; both are padded with zeros."""
    used = codes_bn.new_zeros(len(codes_bn), size).scatter_(1, codes_bn, 1)
    place = used.cumsum(dim=1) - 1
    places_bn = place.gather(1, codes_bn)
    count = int(place[:, -1].max()) + 1
    values = codes_bn.new_zeros(len(codes_bn), count).scatter_(1, places_bn, codes_bn)
    seen = torch.zeros(*codes_bn.shape, count, device=codes_bn.device)
    seen.scatter_(2, places_bn[..., None], 1.0)
    return values, (seen.cumsum(dim=1) - seen).clamp_(max=COUNT_LIMIT)


def _starting_embeddings(code_vectors: Sequence[Tensor]) -> list[Tensor]:
    """Return `[K, E]` for each code: its vectors along the principal axes of the first code's.

    All codes share axes and scale (unit spread of the first code's entries), so that the sum over
    the codes of a residual quantizer is the quantized vector.
    """
    vectors = [v.detach().float().cpu() for v in code_vectors]
    centred = [v - v.mean(dim=0) for v in vectors]
    kept = min(EMBEDDING_DIM, vectors[0].shape[1])
    axes = torch.linalg.svd(centred[0], full_matrices=True).Vh[:kept]
    leading = [c @ axes.T for c in centred]
    scale = leading[0].std(correction=0).clamp_min(1e-6)
    return [
        torch.cat([x / scale, _further_entries(v, EMBEDDING_DIM - kept)], dim=1)
        for x, v in zip(leading, vectors, strict=True)
    ]


def _further_entries(vectors_kd: Tensor, count: int) -> Tensor:
    """Return entries `[K, count]` beyond the dimension of the code vectors: the level of a code in
    each dimension, for grids of few levels (fsq, lfq), then noise."""
    levels = [column.unique(return_inverse=True) for column in vectors_kd.T]
    known = [F.one_hot(where, len(own)) for own, where in levels if len(own) <= _FEW_LEVELS]
    which = torch.cat(known, dim=1)[:, :count].float() if known else torch.zeros(len(vectors_kd), 0)
    noise = torch.randn(len(vectors_kd), count - which.shape[1])
    return torch.cat([which - which.mean(dim=0), _EXTRA_SPREAD * noise], dim=1)


@torch.no_grad()
def round_prior(network: PriorNetwork, sample_bhwq: Tensor) -> CodePrior:
    """Round a network to integers; the codes of the sample show how large activations become."""
    scale = min(_weight_scale(table) for table in network.embeddings)
    inputs, own = network.context(sample_bhwq)
    networks = cast(list[SymbolNetwork], list(network.symbols))
    pairs = zip(networks, network.embeddings, strict=True)
    return CodePrior(tuple(_round_symbol(*pair, inputs, own, scale) for pair in pairs))


def _round_symbol(
    network: SymbolNetwork, table: Tensor, inputs_bnpe: Tensor, own_bnqe: Tensor, table_scale: float
) -> SymbolModel:
    hidden = network.hidden(inputs_bnpe, own_bnqe).relu().flatten(0, 1)
    query, gate = network.query(hidden), 1 + network.gate(hidden)

    first = network.first.weight.view(HIDDEN_UNITS, -1, EMBEDDING_DIM).permute(1, 2, 0)
    first_scale = _weight_scale(first)
    weights = _round(first * first_scale, WEIGHT_LIMIT, np.int8)
    # No product of an embedding with these weights exceeds this bound.
    bound = float(np.abs(weights.astype(np.int32)).sum(axis=1).max()) * WEIGHT_LIMIT
    table_shift = _shift(bound, TABLE_LIMIT)
    scale = first_scale * table_scale / 2**table_shift
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
    # The gate is multiplied by the bonus, so the scale of the bonus compensates that of the gate.
    gate_weight_scale = _weight_scale(network.gate.weight)
    gate_raw = gate_weight_scale * hidden_scale
    gate_shift = _shift(_high(gate.abs()) * gate_raw, GATE_LIMIT)
    bonus = network.bonus(torch.arange(COUNT_LIMIT + 1.0)) * logit_scale
    output_bias = network.output_bias - network.output_bias.max()
    return SymbolModel(
        embedding=_round(table * table_scale, WEIGHT_LIMIT, np.int8), weights=weights,
        row_bias=_round((network.row + network.first.bias) * scale + lost, BIAS_LIMIT),
        column_bias=_round(network.column * scale, BIAS_LIMIT),
        query_weights=_round(network.query.weight.T * query_scale, WEIGHT_LIMIT, np.int8),
        query_bias=_round(network.query.bias * query_scale * hidden_scale, BIAS_LIMIT),
        gate_weights=_round(network.gate.weight[0] * gate_weight_scale, WEIGHT_LIMIT, np.int8),
        gate_bias=_round((1 + network.gate.bias) * gate_raw, BIAS_LIMIT),
        outputs=_round(network.outputs * output_scale, WEIGHT_LIMIT, np.int8),
        output_bias=_round(output_bias * logit_scale, BIAS_LIMIT),
        bonus=_round(bonus / (gate_raw / 2**gate_shift), BIAS_LIMIT // GATE_LIMIT),
        shifts=np.array([table_shift, hidden_shift, query_shift, gate_shift, logit_shift], "i4"),
    )  # fmt: skip


def _weight_scale(values: Tensor) -> float:
    """Return the scale that brings the largest entry to the limit of weights."""
    return WEIGHT_LIMIT / max(float(values.abs().max()), 1e-6)


def _high(values: Tensor) -> float:
    """Return a bound of nearly all activations; larger ones are clipped."""
    rank = max(1, math.ceil(0.9999 * values.numel()))
    return float(values.flatten().kthvalue(rank).values) + 1e-6


def _shift(largest: float, limit: int) -> int:
    """Return the right shift that brings `largest` below `limit`."""
    return max(0, math.ceil(math.log2(max(largest, 1e-9) / limit)))


def _round(values: Tensor, limit: int, dtype: DTypeLike = np.int32) -> Array:
    return values.detach().double().round().clamp(-limit, limit).numpy().astype(dtype)
