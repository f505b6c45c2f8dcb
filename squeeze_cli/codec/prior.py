"""The prior: probabilities of the codes of a vector, given the codes that are decoded before them.

It is an autoregressive model over the code grid as in VQ-VAE (van den Oord et al., 2017,
arXiv:1711.00937), small enough to run position by position:

    embedded codes of ten causal neighbours, and of the vector's codes before this one
        --W--> hidden (ReLU) --G--> query --dot product with each code's output vector--> logits
    plus, for codes that the image has used already, a bonus by count, times a gate from `hidden`.

Encoder and decoder must see the same probabilities on any machine, in any batch, with any number of
threads. So all numbers here are integers. Matrix products use float32, whose sums are exact in any
order while they stay below 2^24, which the limits below ensure. Exponentials come from a table that
is computed in decimal arithmetic, frequencies from elementwise float64 operations, whose rounding
IEEE 754 determines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.codec.range_coding import TOTAL

# Rows and columns from a vector to its causal neighbours: two to the left, and the two rows above.
OFFSETS = (
    (0, -1), (0, -2), (-1, -2), (-1, -1), (-1, 0), (-1, 1), (-1, 2), (-2, -1), (-2, 0), (-2, 1),
)  # fmt: skip
# Largest magnitudes. Products: 256 hidden units x 127 x 511 < 2^24, and 64 query entries x 127 x
# 1023 stay below 2^24 also with a bias and a bonus of 2^22 each.
WEIGHT_LIMIT = 127
HIDDEN_LIMIT = 511
QUERY_LIMIT = 1023
GATE_LIMIT = 1023
BIAS_LIMIT = 1 << 22
HIDDEN_UNITS = 256
EMBEDDING_DIM = 64
TABLE_LIMIT = (1 << 15) - 1
# Counts of earlier uses of a code in an image are capped at this value.
COUNT_LIMIT = 7
# Logits are integers in units of 1/256 nat.
STEPS_PER_NAT = 256

Array = NDArray[np.integer]


class SymbolModel(NamedTuple):
    """Integer model of code q of a vector; docs/codes-format.md has the types and shapes."""

    embedding: Array
    weights: Array
    row_bias: Array
    column_bias: Array
    query_weights: Array
    query_bias: Array
    gate_weights: Array
    gate_bias: Array
    outputs: Array
    output_bias: Array
    bonus: Array
    shifts: Array


class Prior(ABC):
    """Base of the priors, which are stored as arrays of integers; `version` is that of their file."""

    version: ClassVar[int]

    @property
    @abstractmethod
    def code_sizes(self) -> tuple[int, ...]:
        """Number of values of each of a vector's codes."""

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the grids of codes."""

    @abstractmethod
    def arrays(self) -> dict[str, Array]:
        """Return all arrays by the names under which they are stored."""

    @cached_property
    def digest(self) -> str:
        """Eight hex digits that identify the prior's content."""
        content = blake2b(digest_size=4)
        for name, array in sorted(self.arrays().items()):
            content.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            content.update(array.tobytes())
        return content.hexdigest()


@dataclass(frozen=True)
class CodePrior(Prior):
    """Integer prior over grids of codes: the models of a vector's Q codes, in order."""

    version = 1
    symbols: tuple[SymbolModel, ...]

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """Number of values of each of a vector's codes."""
        return tuple(len(symbol.outputs) for symbol in self.symbols)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the grids of codes."""
        first = self.symbols[0]
        return len(first.row_bias), len(first.column_bias)

    @cached_property
    def evaluators(self) -> tuple[SymbolEvaluator, ...]:
        """Evaluators of the Q codes of a vector, in order."""
        return tuple(SymbolEvaluator(self, q) for q in range(len(self.symbols)))

    def arrays(self) -> dict[str, Array]:
        """Return all arrays by the names under which they are stored."""
        return {
            f"{q}.{name}": np.ascontiguousarray(array)
            for q, symbol in enumerate(self.symbols)
            for name, array in symbol._asdict().items()
        }

    @classmethod
    def from_arrays(cls, named: Mapping[str, Array]) -> Self:
        """Return the prior with these `arrays`; raises KeyError if one is missing."""
        count = sum(name.endswith(".embedding") for name in named)
        names = SymbolModel._fields
        return cls(tuple(SymbolModel(*(named[f"{q}.{n}"] for n in names)) for q in range(count)))

    def check(self) -> None:
        """Raise ValueError unless types and shapes are those of docs/codes-format.md."""
        (rows, columns), d, h = self.grid, EMBEDDING_DIM, HIDDEN_UNITS
        for q, symbol in enumerate(self.symbols):
            k = len(symbol.outputs)
            shapes = (
                (k + 1, d), (len(OFFSETS) + q, d, h), (rows, h), (columns, h), (h, d), (d,), (h,), (1,),
                (k, d), (k,), (COUNT_LIMIT + 1,), (5,),
            )  # fmt: skip
            if [(a.dtype.char, a.shape) for a in symbol] != list(
                zip("bbiibibibiii", shapes, strict=True)
            ):
                raise ValueError(f"code {q} has other tensors")


class SymbolEvaluator:
    """Computation of the frequencies of code q from its context.

    The first layer is a sum over its inputs, so a table holds the products of its weights with all codes.
    """

    def __init__(self, prior: CodePrior, q: int) -> None:
        symbol = prior.symbols[q]
        self.size = len(symbol.outputs)
        table_shift, *self._shifts = symbol.shifts.tolist()
        # Products in float32 are exact here: 64 x 127 x 127 < 2^24.
        tables = [each.embedding.astype(np.float32) for each in prior.symbols]
        inputs = [*(tables for _ in OFFSETS), *([table] for table in tables[:q])]
        parts = [
            (table @ weights.astype(np.float32)).astype(np.int32) >> table_shift
            for together, weights in zip(inputs, symbol.weights, strict=True)
            for table in together
        ]
        self._table = np.concatenate(parts).astype(np.int16)
        self._begins = np.cumsum([0, *(len(part) for part in parts[:-1])])
        self._bias = (symbol.row_bias[:, None] + symbol.column_bias).reshape(-1, HIDDEN_UNITS)
        # The gate is one more column of the product that gives the query.
        query_weights = np.column_stack([symbol.query_weights, symbol.gate_weights])
        self._query_weights = query_weights.astype(np.float32)
        self._query_bias = np.append(symbol.query_bias, symbol.gate_bias)
        self._outputs = np.ascontiguousarray(symbol.outputs.T, np.float32)
        self._output_bias = symbol.output_bias.astype(np.float32)
        self._bonus = symbol.bonus.astype(np.float32)

    def frequencies(
        self, positions: NDArray[np.int64], context_nc: NDArray[np.int64],
        counts_nk: NDArray[np.integer],
    ) -> NDArray[np.int32]:  # fmt: skip
        """Return the number of slots out of 2^20, at least one, of each value of the code, `[n, K]`.

        Args:
            positions: `[n]` or `[1]`, row times columns plus column.
            context_nc: `[n, P * Q + Q]`, the neighbours' codes, then the vector's own, of which
                those before this one are read.
            counts_nk: `[n, K]`, how many earlier vectors of the image have each value as this
                code; `COUNT_LIMIT` stands for more.
        """
        hidden_shift, query_shift, gate_shift, logit_shift = self._shifts
        entries = self._table.take(context_nc[:, : len(self._begins)] + self._begins, axis=0)
        total = self._bias[positions] + entries.sum(axis=1, dtype=np.int32)
        hidden = np.clip(total >> hidden_shift, 0, HIDDEN_LIMIT).astype(np.float32)
        query = (hidden @ self._query_weights).astype(np.int32) + self._query_bias
        gate = np.clip(query[:, -1:] >> gate_shift, -GATE_LIMIT, GATE_LIMIT).astype(np.float32)
        query = np.clip(query[:, :-1] >> query_shift, -QUERY_LIMIT, QUERY_LIMIT)
        logits: NDArray[np.float32] = query.astype(np.float32) @ self._outputs
        logits += self._output_bias
        bonus = self._bonus.take(counts_nk, mode="clip")
        bonus *= gate
        logits += bonus
        # A difference in float32 could exceed 2^24 and be rounded.
        steps = logits.astype(np.int32)
        np.subtract(steps.max(axis=1, keepdims=True), steps, out=steps)
        steps >>= logit_shift
        return frequencies_of(steps)


def frequencies_of(steps_nk: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return the number of slots out of 2^20, at least one, of each of K values, `[n, K]`.

    `steps_nk` is how many units of 1/256 nat a value is below the most probable one.
    """
    # "clip" takes the last entry of the table for steps beyond it.
    weights = exponentials().take(steps_nk, mode="clip")
    weights *= (TOTAL - steps_nk.shape[1]) / weights.sum(axis=1, keepdims=True)
    frequencies: NDArray[np.int32] = weights.astype(np.int32)
    frequencies += 1
    # The slots that rounding has left go to the most probable value.
    left = TOTAL - frequencies.sum(axis=1, dtype=np.int32)
    frequencies[np.arange(len(left)), steps_nk.argmin(axis=1)] += left
    return frequencies


@lru_cache(maxsize=1)
def exponentials() -> NDArray[np.float64]:
    """Return 2^24 exp(-i / 256) for i below 4096, rounded to integers, equal on all machines.

    They end at 16 nats: a code of lower probability has its single slot of 2^20 anyway.
    """
    exact = [(Decimal(-i) / STEPS_PER_NAT).exp() * 2**24 for i in range(16 * STEPS_PER_NAT)]
    return np.asarray([int(entry + Decimal("0.5")) for entry in exact], np.float64)
