"""Fit a prior to training codes: a small float network in torch, then whole numbers.

The network is that of `prior.py`; what differs is dropout, which it needs: a few hundred images
have fewer codes than it has weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from squeeze_cli.codec.prior import COUNT_LIMIT, EMBEDDING_DIM, HIDDEN_UNITS, OFFSETS, CodePrior
from squeeze_cli.codec.prior_coding import PaddedGrid
from squeeze_cli.codec.prior_rounding import round_symbol, rounded_weights, weight_scale

# Larger codes would make the prior larger than what it saves, and its softmax slow.
LARGEST_CODE = 4096
VECTORS_PER_STEP = 1200
PASSES = 12
LARGEST_STEPS = 400
# Whose activations set the scales of the whole numbers.
SAMPLE_VECTORS = 2048
_LR = 3e-3
_WEIGHT_DECAY = 0.02
_HIDDEN_DROPOUT = 0.5
_INPUT_DROPOUT = 0.1
# Spread of the embeddings' entries beyond the dimension of the code vectors, which have 1.
_EXTRA_SPREAD = 0.3
_FEW_LEVELS = 16


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

    Args:
        codes_nhwq: `[n, h, w, Q]`, n at least 1.
        code_vectors: for each code `[K_q, d]`, what its values stand for; nearness there is where
            the network starts from.
        seed: of initial weights, order and dropout.
        advance: told of each step, `fitting_steps` in all.

    Takes at most some 5 seconds on two cores for one code a vector of 512 values, four times that
    for four of 256.
    """
    rows, columns = codes_nhwq.shape[1:3]
    codes = torch.from_numpy(codes_nhwq.astype(np.int64))
    both = torch.cat([codes, codes.flip(2)])  # a mirrored image is an image as likely
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
    return network.eval().rounded(both[:sample])


def fitting_steps(shape: Sequence[int]) -> int:
    """Optimizer steps for codes of `[n, h, w, Q]`: `PASSES` over them, at most `LARGEST_STEPS`."""
    vectors = shape[0] * shape[1] * shape[2]
    return min(LARGEST_STEPS, max(1, math.ceil(PASSES * vectors / VECTORS_PER_STEP)))


class PriorNetwork(nn.Module):
    """Float twin of `CodePrior`, initialized from the codes' frequencies and vectors."""

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
        """Mean cross entropy in nats a code."""
        logits = self.logits(codes_bhwq)
        codes = codes_bhwq.flatten(0, 2)
        losses = [F.cross_entropy(x, codes[:, q]) for q, x in enumerate(logits)]
        return torch.stack(losses).mean()

    def logits(self, codes_bhwq: Tensor) -> list[Tensor]:
        """For each code `[B * h * w, K_q]`."""
        inputs, own = self.context(codes_bhwq)
        return [
            symbol(q, inputs, own, codes_bhwq[..., q].flatten(1))
            for q, symbol in enumerate(self.symbols)
        ]

    def context(self, codes_bhwq: Tensor) -> tuple[Tensor, Tensor]:
        """The embedded neighbours `[B, N, P, E]` and a vector's own codes `[B, N, Q, E]`."""
        flat = codes_bhwq.flatten(1, 2)
        padded = PaddedGrid(len(flat), self.grid, self.code_sizes)
        padded.fill(flat.numpy())
        neighbours = torch.from_numpy(padded.all_neighbours())
        tables = list(self.embeddings)
        around = F.embedding(neighbours[..., 0], tables[0])
        for q, table in enumerate(tables[1:], start=1):
            around = around + F.embedding(neighbours[..., q], table)
        # The last code is nobody's context.
        own = [F.embedding(flat[..., q], table) for q, table in enumerate(tables[:-1])]
        own_bnqe = torch.stack(own, dim=2) if own else around[:, :, :0]
        dropped = F.dropout(around, _INPUT_DROPOUT, self.training)
        return dropped, F.dropout(own_bnqe, _INPUT_DROPOUT, self.training)

    @torch.no_grad()
    def rounded(self, sample_bhwq: Tensor) -> CodePrior:
        """The same in whole numbers; `sample` shows how large the activations get."""
        scale = min(weight_scale(table) for table in self.embeddings)
        inputs, own = self.context(sample_bhwq)
        symbols = [
            round_symbol(cast(SymbolNetwork, symbol), q, inputs, own, scale)
            for q, symbol in enumerate(self.symbols)
        ]
        tables = [rounded_weights(table, scale) for table in self.embeddings]
        return CodePrior(self.code_sizes, tuple(tables), tuple(symbols))


class SymbolNetwork(nn.Module):
    """Float twin of `SymbolModel` for code `q`."""

    def __init__(self, q: int, grid: tuple[int, int], start_ke: Tensor, codes_nhw: Tensor) -> None:
        super().__init__()
        inputs = len(OFFSETS) + q
        self.first = nn.Linear(inputs * EMBEDDING_DIM, HIDDEN_UNITS)
        self.row = nn.Parameter(torch.zeros(grid[0], HIDDEN_UNITS))
        self.column = nn.Parameter(torch.zeros(grid[1], HIDDEN_UNITS))
        self.query = nn.Linear(HIDDEN_UNITS, EMBEDDING_DIM)
        self.outputs = nn.Parameter(start_ke / start_ke.std(correction=0).clamp_min(1e-6))
        counts = torch.bincount(codes_nhw.flatten(), minlength=len(start_ke)).float() + 0.5
        self.output_bias = nn.Parameter((counts / counts.sum()).log())
        self.gate = nn.Linear(HIDDEN_UNITS, 1)
        # What a code gains for being in the image already, and for each doubling of its count + 1.
        self.seen_bonus = nn.Parameter(torch.zeros(()))
        self.count_bonus = nn.Parameter(torch.zeros(()))

    def hidden(self, q: int, inputs_bnpe: Tensor, own_bnqe: Tensor) -> Tensor:
        """Hidden units `[B, N, H]` before ReLU."""
        x = inputs_bnpe if q == 0 else torch.cat([inputs_bnpe, own_bnqe[:, :, :q]], dim=2)
        places = (self.row[:, None] + self.column).flatten(0, 1)
        hidden: Tensor = self.first(x.flatten(2)) + places
        return hidden

    def forward(self, q: int, inputs_bnpe: Tensor, own_bnqe: Tensor, codes_bn: Tensor) -> Tensor:
        """Logits `[B * N, K]`."""
        hidden = F.relu(self.hidden(q, inputs_bnpe, own_bnqe))
        hidden = F.dropout(hidden, _HIDDEN_DROPOUT, self.training).flatten(0, 1)
        logits = torch.addmm(self.output_bias, self.query(hidden), self.outputs.T)
        values, counts = _counts_before(codes_bn, len(self.outputs))
        bonus = self.bonus(counts).flatten(0, 1) * (1 + self.gate(hidden))
        columns = values[:, None].expand_as(counts).flatten(0, 1)
        return logits.scatter_add_(1, columns, bonus)

    def bonus(self, counts: Tensor) -> Tensor:
        """Logits that codes gain by how often they came before, where the gate is 1."""
        seen: Tensor = self.seen_bonus * counts.clamp(max=1)
        bonus: Tensor = seen + self.count_bonus * (counts + 1).log2()
        return bonus


def _counts_before(codes_bn: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """How often a value came earlier in its image, at most `COUNT_LIMIT`, for those that come at all.

    Returns the values `[B, D]` that an image uses, of `size`, and counts `[B, N, D]`. An image of
    fewer than D values has zeros in the place of the others, counted 0 times.
    """
    used = torch.zeros(len(codes_bn), size, dtype=torch.int64).scatter_(1, codes_bn, 1)
    place = used.cumsum(dim=1) - 1
    places_bn = place.gather(1, codes_bn)
    count = int(place[:, -1].max()) + 1
    values = codes_bn.new_zeros(len(codes_bn), count).scatter_(1, places_bn, codes_bn)
    seen = torch.zeros(*codes_bn.shape, count).scatter_(2, places_bn[..., None], 1.0)
    return values, (seen.cumsum(dim=1) - seen).clamp_(max=COUNT_LIMIT)


def _starting_embeddings(code_vectors: Sequence[Tensor]) -> list[Tensor]:
    """For each code `[K, E]`: its vectors along the principal axes of the first code's.

    The axes and the scale (unit spread of the first code's entries) are common, so that for a
    residual quantizer the sum over codes is the quantized vector. `_further_entries` follow.
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
    """Entries `[K, count]` past the dimension of the code vectors: which of its levels a code has in
    each dimension, for grids of few levels (fsq, lfq); then noise."""
    levels = [column.unique(return_inverse=True) for column in vectors_kd.T]
    known = [
        F.one_hot(where, len(values)) for values, where in levels if len(values) <= _FEW_LEVELS
    ]
    which = torch.cat(known, dim=1)[:, :count].float() if known else torch.zeros(len(vectors_kd), 0)
    noise = torch.randn(len(vectors_kd), count - which.shape[1])
    return torch.cat([which - which.mean(dim=0), _EXTRA_SPREAD * noise], dim=1)
