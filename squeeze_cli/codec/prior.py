"""The prior: probabilities of a vector's codes, given those that are decoded before it.

An autoregressive model over the code grid, as VQ-VAE has one (van den Oord et al., 2017,
arXiv:1711.00937), small enough to run position by position:

    embedded codes of ten causal neighbours, and of the vector's codes before this one
        --W--> hidden (ReLU) --G--> query --dot product with each code's output vector--> logits
    and for codes that the image has used already, a bonus by count, times a gate from `hidden`.

Encoder and decoder must see the same probabilities on any machine, in any batch, with any number of
threads. So all numbers here are integers. Those in matrix products are float32, whose sums are
exact in any order while they stay below 2^24: the bounds below see to that. Exponentials come from
a table that decimal arithmetic makes, frequencies from float64 operations on single elements, which
IEEE 754 rounds in one way only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Self

import numpy as np
from numpy.typing import NDArray

from squeeze_cli.codec.neighbours import OFFSETS
from squeeze_cli.codec.range_coding import TOTAL

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
# A code seen more often in an image than this counts as seen so often.
COUNT_LIMIT = 7
# Logits are counted in these parts of a nat, and the table of exponentials ends at 16 nats: there a
# code's share of the 2^20 slots is nothing anyway, and it keeps its one slot.
STEPS_PER_NAT = 256
_EXP_ENTRIES = 16 * STEPS_PER_NAT
_EXP_ONE = 1 << 24

Array = NDArray[np.integer]


@dataclass(frozen=True)
class SymbolModel:
    """The model of code q of a vector, K values; all arrays hold integers.

    Attributes:
        weights: `[P + q, E, H]` int8, from the embedded neighbours and the vector's codes before
            this one to hidden units.
        row_bias: `[rows, H]` int32; `column_bias`: `[columns, H]` int32.
        query_weights: `[H, E]` int8; `query_bias`: `[E]` int32.
        gate_weights: `[H]` int8; `gate_bias`: int32.
        outputs: `[K, E]` int8; `output_bias`: `[K]` int32.
        bonus: `[COUNT_LIMIT + 1]` int32.
        shifts: `[5]` int32: right shifts of table entries, hidden, query, gate and logits.
    """

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


@dataclass(frozen=True)
class CodePrior:
    """Integer-valued prior over grids of codes.

    Attributes:
        code_sizes: Q sizes.
        embeddings: for each code `[K + 1, E]` int8; the last row stands for outside of the image.
        symbols: for each code its model.
    """

    code_sizes: tuple[int, ...]
    embeddings: tuple[Array, ...]
    symbols: tuple[SymbolModel, ...]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns that the prior was fitted on; it codes no other grid."""
        first = self.symbols[0]
        return len(first.row_bias), len(first.column_bias)

    @cached_property
    def evaluators(self) -> tuple[SymbolEvaluator, ...]:
        """One for each of a vector's codes, in order."""
        return tuple(SymbolEvaluator(self, q) for q in range(len(self.code_sizes)))

    @cached_property
    def digest(self) -> str:
        """Eight hex digits of what the prior says: two that differ are two priors."""
        content = blake2b(digest_size=4)
        for name, array in sorted(self.arrays().items()):
            content.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            content.update(array.tobytes())
        return content.hexdigest()

    def arrays(self) -> dict[str, Array]:
        """All arrays by name, as they are stored."""
        named: dict[str, Array] = {}
        for q, (embedding, symbol) in enumerate(zip(self.embeddings, self.symbols, strict=True)):
            named[f"{q}.embedding"] = embedding
            for field in fields(symbol):
                named[f"{q}.{field.name}"] = getattr(symbol, field.name)
        return named

    @classmethod
    def from_arrays(cls, named: Mapping[str, Array]) -> Self:
        """The inverse of `arrays`; raises KeyError where one is missing."""
        count = sum(name.endswith(".embedding") for name in named)
        symbols = tuple(
            SymbolModel(**{f.name: named[f"{q}.{f.name}"] for f in fields(SymbolModel)})
            for q in range(count)
        )
        embeddings = tuple(named[f"{q}.embedding"] for q in range(count))
        return cls(tuple(len(s.outputs) for s in symbols), embeddings, symbols)


class SymbolEvaluator:
    """Frequencies of code q from its context; made once for a prior, then only read.

    The first layer is a sum over codes, so its products are looked up: a table of what each code
    gives as each neighbour.
    """

    def __init__(self, prior: CodePrior, q: int) -> None:
        symbol = prior.symbols[q]
        self.size = prior.code_sizes[q]
        shifts = [int(shift) for shift in symbol.shifts]
        self._table_shift, self._hidden_shift, self._query_shift, self._gate_shift = shifts[:4]
        self._logit_shift = shifts[4]
        slots = [(p, level) for p in range(len(OFFSETS)) for level in range(len(prior.code_sizes))]
        slots += [(len(OFFSETS) + level, level) for level in range(q)]
        parts = [
            _products(prior.embeddings[level], symbol.weights[p], self._table_shift)
            for p, level in slots
        ]
        self._table = np.concatenate(parts).astype(np.int16)
        sizes = [len(part) for part in parts]
        self._begins = np.cumsum([0, *sizes[:-1]])
        bias = symbol.row_bias[:, None].astype(np.int32) + symbol.column_bias.astype(np.int32)
        self._bias = bias.reshape(-1, bias.shape[-1])
        # The gate is one more column of the product that gives the query.
        self._query_weights = np.concatenate(
            [symbol.query_weights, symbol.gate_weights[:, None]], axis=1
        ).astype(np.float32)
        self._query_bias = np.append(symbol.query_bias, symbol.gate_bias).astype(np.int32)
        self._outputs = np.ascontiguousarray(symbol.outputs.T.astype(np.float32))
        self._output_bias = symbol.output_bias.astype(np.float32)
        self._bonus = symbol.bonus.astype(np.float32)

    def frequencies(
        self,
        positions: NDArray[np.int64],
        neighbours_npq: NDArray[np.int64],
        earlier_nq: NDArray[np.int64],
        counts_nk: NDArray[np.uint8],
    ) -> NDArray[np.int32]:
        """Slots of 2^20 that each value of the code holds.

        Args:
            positions: `[n]` or `[1]`, row times columns plus column.
            neighbours_npq: `[n, P, Q]`, the neighbours' codes.
            earlier_nq: `[n, q]`, the vector's own codes before this one.
            counts_nk: `[n, K]`, how often each value was this code of an earlier vector of the
                image, at most `COUNT_LIMIT`.

        Returns:
            `[n, K]`, each at least 1, each row adding up to 2^20.
        """
        logits = self._logits(positions, neighbours_npq, earlier_nq, counts_nk)
        # In float32 a difference could pass 2^24 and be rounded.
        steps = logits.astype(np.int32)
        np.subtract(steps.max(axis=1, keepdims=True), steps, out=steps)
        steps >>= self._logit_shift
        # "clip" takes the table's last entry for all that lies beyond it.
        weights = exponentials().take(steps, mode="clip")
        weights *= (TOTAL - self.size) / weights.sum(axis=1, keepdims=True)
        frequencies: NDArray[np.int32] = weights.astype(np.int32)
        frequencies += 1
        # What rounding left goes to the most probable code.
        best = steps.argmin(axis=1)
        left = TOTAL - frequencies.sum(axis=1, dtype=np.int32)
        frequencies[np.arange(len(best)), best] += left
        return frequencies

    def _logits(
        self,
        positions: NDArray[np.int64],
        neighbours_npq: NDArray[np.int64],
        earlier_nq: NDArray[np.int64],
        counts_nk: NDArray[np.uint8],
    ) -> NDArray[np.float32]:
        n = len(neighbours_npq)
        codes = np.concatenate([neighbours_npq.reshape(n, -1), earlier_nq], axis=1)
        entries = self._table.take(codes + self._begins, axis=0)
        total = self._bias[positions] + entries.sum(axis=1, dtype=np.int32)
        hidden = np.clip(total >> self._hidden_shift, 0, HIDDEN_LIMIT).astype(np.float32)
        query = (hidden @ self._query_weights).astype(np.int32) + self._query_bias
        gate = np.clip(query[:, -1:] >> self._gate_shift, -GATE_LIMIT, GATE_LIMIT)
        query = np.clip(query[:, :-1] >> self._query_shift, -QUERY_LIMIT, QUERY_LIMIT)
        logits: NDArray[np.float32] = query.astype(np.float32) @ self._outputs
        logits += self._output_bias
        bonus = self._bonus.take(counts_nk, mode="clip")
        bonus *= gate.astype(np.float32)
        logits += bonus
        return logits


@lru_cache(maxsize=1)
def exponentials() -> NDArray[np.float64]:
    """2^24 exp(-i / 256) for i below 4096, rounded: whole numbers, the same on every machine."""
    entries = [
        int((Decimal(-i) / STEPS_PER_NAT).exp() * _EXP_ONE + Decimal("0.5"))
        for i in range(_EXP_ENTRIES)
    ]
    return np.asarray(entries, np.float64)


def _products(embedding_ke: Array, weights_eh: Array, shift: int) -> NDArray[np.int32]:
    """`embedding @ weights` in whole numbers, shifted to fit 16 bits: 64 x 127 x 127 < 2^24."""
    product = embedding_ke.astype(np.float32) @ weights_eh.astype(np.float32)
    return product.astype(np.int32) >> shift
