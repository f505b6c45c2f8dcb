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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import blake2b
from math import prod
from typing import ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from squeeze_cli.codec.range_coding import TOTAL, Slots, StreamDecoder, frequencies_of

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
# Width of the border that causal neighbours need: rows above an image, and columns at each side.
_REACH = 2
# Rows and columns of the neighbours, and last of the vector itself, in an image with this border.
_DOWN, _RIGHT = np.transpose((*OFFSETS, (0, 0))) + _REACH
# Number of vectors times code values for which slots are computed at once, to fit a cache of 3 MB.
_BLOCK_ELEMENTS = 1 << 17

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

    @classmethod
    @abstractmethod
    def from_arrays(cls, named: Mapping[str, Array]) -> Self:
        """Return the prior with these `arrays`.

        Raises KeyError if one is missing, and ValueError unless all are as docs/codes-format.md says.
        """

    @abstractmethod
    def slots(self, codes_bhwq: NDArray[np.integer]) -> Slots:
        """Return the slots `[B, ...]` of each symbol of an image, in the order in which they are coded.

        The prior may be for more codes per vector.
        """

    @abstractmethod
    def decode(
        self, decoder: StreamDecoder, images_b: NDArray[np.int64], codes_per_vector: int
    ) -> NDArray[np.int32]:
        """Decode the first codes `[B, n, h, w, Q]` of each vector of the images of B streams."""

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
            f"{q}.{name}": array
            for q, symbol in enumerate(self.symbols)
            for name, array in symbol._asdict().items()
        }

    @classmethod
    def from_arrays(cls, named: Mapping[str, Array]) -> Self:
        """Return the prior with these `arrays`, and check their types and shapes."""
        count = sum(name.endswith(".embedding") for name in named)
        names = SymbolModel._fields
        prior = cls(tuple(SymbolModel(*(named[f"{q}.{n}"] for n in names)) for q in range(count)))
        (rows, columns), d, h = prior.grid, EMBEDDING_DIM, HIDDEN_UNITS
        for q, symbol in enumerate(prior.symbols):
            k = len(symbol.outputs)
            shapes = (
                (k + 1, d), (len(OFFSETS) + q, d, h), (rows, h), (columns, h), (h, d), (d,), (h,), (1,),
                (k, d), (k,), (COUNT_LIMIT + 1,), (5,),
            )  # fmt: skip
            if [(a.dtype.char, a.shape) for a in symbol] != list(
                zip("bbiibibibiii", shapes, strict=True)
            ):
                raise ValueError(f"code {q} has other tensors")
        return prior

    def slots(self, codes_bhwq: NDArray[np.integer]) -> Slots:
        """Return the slots of each code, position by position."""
        images = max(1, _BLOCK_ELEMENTS // (prod(self.grid) * max(self.code_sizes)))
        with _blas().limit(limits=1, user_api="blas"):
            blocks = [
                self._slots_of_block(codes_bhwq[begin : begin + images])
                for begin in range(0, max(1, len(codes_bhwq)), images)
            ]
        return Slots(*map(np.concatenate, zip(*blocks, strict=True)))

    def _slots_of_block(self, codes_bhwq: NDArray[np.integer]) -> Slots:
        padded = pad_codes(codes_bhwq, self.code_sizes)
        context = context_of(padded, *np.indices(self.grid))
        b, n, q_count = len(context), prod(self.grid), codes_bhwq.shape[3]
        context_nc = context.reshape(b * n, context.shape[3] * context.shape[4])
        codes_bnq = codes_bhwq.reshape(b, n, q_count).astype(np.int64)
        positions = np.tile(np.arange(n), b)
        slots = Slots(*np.empty((2, b, n, q_count), np.int64))
        for q, evaluator in enumerate(self.evaluators[:q_count]):
            uses = np.zeros((b, n, evaluator.size), np.min_scalar_type(n))
            np.put_along_axis(uses[:, 1:], codes_bnq[:, :-1, q, None], 1, axis=2)
            counts = uses.cumsum(axis=1, dtype=uses.dtype).reshape(b * n, evaluator.size)
            frequencies = evaluator.frequencies(positions, context_nc, counts).reshape(uses.shape)
            code = codes_bnq[..., q, None]
            frequency = np.take_along_axis(frequencies, code, axis=2)
            bounds = np.take_along_axis(frequencies.cumsum(axis=2, dtype=np.int32), code, axis=2)
            slots.starts[..., q, None] = bounds - frequency
            slots.frequencies[..., q, None] = frequency
        return slots

    def decode(
        self, decoder: StreamDecoder, images_b: NDArray[np.int64], codes_per_vector: int
    ) -> NDArray[np.int32]:
        """Decode the codes of vectors, position by position."""
        sizes = self.code_sizes
        b, (rows, columns) = len(images_b), self.grid
        decoded = np.empty((b, images_b.max(), rows, columns, codes_per_vector), np.int32)
        lanes = np.arange(b)
        with _blas().limit(limits=1, user_api="blas"):
            for image in range(images_b.max()):
                ended = np.flatnonzero(images_b <= image)
                padded = pad_codes(np.zeros(decoded[:, image].shape, np.int64), sizes)
                codes = padded[:, _REACH:, _REACH:-_REACH]
                counts = [np.zeros((b, size), np.uint8) for size in sizes]
                for row, column in np.ndindex(rows, columns):
                    position = np.asarray([row * columns + column])
                    for q, evaluator in enumerate(self.evaluators[:codes_per_vector]):
                        context = context_of(padded, row, column).reshape(b, -1)
                        frequencies = evaluator.frequencies(position, context, counts[q])
                        bounds = frequencies.cumsum(axis=1, dtype=np.int32)
                        found = (bounds > decoder.slots()[:, None]).argmax(axis=1)
                        frequency = frequencies[lanes, found]
                        start = bounds[lanes, found] - frequency
                        start[ended], frequency[ended] = 0, TOTAL
                        decoder.advance(start, frequency)
                        codes[:, row, column, q] = found
                        counts[q][lanes, found] += counts[q][lanes, found] < COUNT_LIMIT
                decoded[:, image] = codes[..., :codes_per_vector]
        return decoded


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


def pad_codes(codes_bhwq: NDArray[np.integer], code_sizes: Sequence[int]) -> NDArray[np.int64]:
    """Return codes with a border, two rows above and two columns at each side, and all Q codes.

    Codes of the border have their size as value, which no vector has. The same value stands for the
    later codes of a vector if only its first codes are given.
    """
    b, rows, columns, given = codes_bhwq.shape
    padded = np.empty((b, rows + _REACH, columns + 2 * _REACH, len(code_sizes)), np.int64)
    padded[:] = code_sizes
    padded[:, _REACH:, _REACH:-_REACH, :given] = codes_bhwq
    return padded


def context_of(
    padded: NDArray[np.int64], row: int | NDArray[np.int64], column: int | NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the codes `[B, ..., P + 1, Q]` of the P causal neighbours of vectors, then the vectors' own.

    `padded` is the result of `pad_codes`; `row` and `column` are the position of one vector, or arrays.
    """
    return padded[:, np.add.outer(row, _DOWN), np.add.outer(column, _RIGHT)]


@cache
def _blas() -> ThreadpoolController:
    """Return the controller of the number of threads of NumPy's BLAS.

    Coding makes thousands of small matrix products. Where other processes use the cores too, threads
    that wait for each other after each product take several times as long as one thread.
    """
    return ThreadpoolController()
