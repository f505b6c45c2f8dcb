"""The float network behind a prior, in torch: the model of `prior.py` with dropout for fitting.

A few hundred images have fewer codes than the network has weights, so dropout is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from squeeze_cli.codec.coding import PaddedGrid
from squeeze_cli.codec.prior import COUNT_LIMIT, EMBEDDING_DIM, HIDDEN_UNITS, OFFSETS

_HIDDEN_DROPOUT = 0.5
_INPUT_DROPOUT = 0.1
# Spread of the random entries of embeddings; the entries from the code vectors have spread 1.
_EXTRA_SPREAD = 0.3
_FEW_LEVELS = 16


class PriorNetwork(nn.Module):
    """Float counterpart of `CodePrior`, initialized from the codes' frequencies and vectors.

    Args:
        codes_nhwq: training codes.
        code_vectors: vectors `[K_q, d]` of the values of each code.
    """

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
        """Return the mean cross entropy in nats per code."""
        codes = codes_bhwq.flatten(0, 2)
        losses = [F.cross_entropy(x, codes[:, q]) for q, x in enumerate(self.logits(codes_bhwq))]
        return torch.stack(losses).mean()

    def logits(self, codes_bhwq: Tensor) -> list[Tensor]:
        """Return the logits `[B * h * w, K_q]` of each code."""
        inputs, own = self.context(codes_bhwq)
        return [
            symbol(inputs, own, codes_bhwq[..., q].flatten(1))
            for q, symbol in enumerate(self.symbols)
        ]

    def context(self, codes_bhwq: Tensor) -> tuple[Tensor, Tensor]:
        """Embed the neighbours `[B, N, P, E]` and each vector's own codes `[B, N, Q - 1, E]`."""
        flat = codes_bhwq.flatten(1, 2)
        padded = PaddedGrid(len(flat), self.grid, self.code_sizes)
        padded.set(flat.numpy())
        neighbours = torch.from_numpy(padded.neighbours())
        tables = list(self.embeddings)
        around = F.embedding(neighbours[..., 0], tables[0])
        for q, table in enumerate(tables[1:], start=1):
            around = around + F.embedding(neighbours[..., q], table)
        # No other code of the vector depends on its last one.
        own = [F.embedding(flat[..., q], table) for q, table in enumerate(tables[:-1])]
        own_bnqe = torch.stack(own, dim=2) if own else around[:, :, :0]
        dropped = F.dropout(around, _INPUT_DROPOUT, self.training)
        return dropped, F.dropout(own_bnqe, _INPUT_DROPOUT, self.training)


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
        x = torch.cat([inputs_bnpe, own_bnqe[:, :, : self.q]], dim=2) if self.q else inputs_bnpe
        places = (self.row[:, None] + self.column).flatten(0, 1)
        hidden: Tensor = self.first(x.flatten(2)) + places
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
        seen: Tensor = self.seen_bonus * counts.clamp(max=1)
        bonus: Tensor = seen + self.count_bonus * (counts + 1).log2()
        return bonus


def _counts_before(codes_bn: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Count how often values came before in their image, up to `COUNT_LIMIT`.

    Only the values that an image uses are counted, which is faster: the function returns these
    values `[B, D]` and their counts `[B, N, D]`. An image with fewer than D values has zeros instead
    of the others, with count 0.
    """
    used = torch.zeros(len(codes_bn), size, dtype=torch.int64).scatter_(1, codes_bn, 1)
    place = used.cumsum(dim=1) - 1
    places_bn = place.gather(1, codes_bn)
    count = int(place[:, -1].max()) + 1
    values = codes_bn.new_zeros(len(codes_bn), count).scatter_(1, places_bn, codes_bn)
    seen = torch.zeros(*codes_bn.shape, count).scatter_(2, places_bn[..., None], 1.0)
    return values, (seen.cumsum(dim=1) - seen).clamp_(max=COUNT_LIMIT)


def _starting_embeddings(code_vectors: Sequence[Tensor]) -> list[Tensor]:
    """Return `[K, E]` for each code: its vectors along the principal axes of the first code's.

    Axes and scale (unit spread of the first code's entries) are common to all codes, so that the
    sum over the codes of a residual quantizer is the quantized vector.
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
    known = [
        F.one_hot(where, len(values)) for values, where in levels if len(values) <= _FEW_LEVELS
    ]
    which = torch.cat(known, dim=1)[:, :count].float() if known else torch.zeros(len(vectors_kd), 0)
    noise = torch.randn(len(vectors_kd), count - which.shape[1])
    return torch.cat([which - which.mean(dim=0), _EXTRA_SPREAD * noise], dim=1)
