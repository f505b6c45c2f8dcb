"""Priors and codes for tests: drawn ones, which cost nothing, and fitted ones; and what a reader
that was written from docs/codes-format.md would compute, in int64 and one vector at a time."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from squeeze_cli.codec.prior import (
    BIAS_LIMIT,
    COUNT_LIMIT,
    EMBEDDING_DIM,
    GATE_LIMIT,
    HIDDEN_UNITS,
    OFFSETS,
    WEIGHT_LIMIT,
    CodePrior,
    SymbolModel,
)
from squeeze_cli.codec.prior_fitting import fit_prior
from squeeze_cli.codec.range_coding import TOTAL, exponentials


def drawn_prior(
    sizes: tuple[int, ...], grid: tuple[int, int], *, seed: int = 0, extreme: bool = False
) -> CodePrior:
    """Random integers; `extreme` takes all of them at their limits, with random signs.

    RandomState gives the same numbers in every version of NumPy.
    """
    random = np.random.RandomState(seed)

    def draw(limit: int, dtype: type, *shape: int) -> np.ndarray:
        values = random.randint(-limit, limit + 1, shape)
        return (
            np.where(values < 0, -limit, limit).astype(dtype) if extreme else values.astype(dtype)
        )

    def symbol(q: int, size: int, embedding: np.ndarray) -> SymbolModel:
        bias, bonus = (BIAS_LIMIT, BIAS_LIMIT // GATE_LIMIT) if extreme else (9000, 300)
        return SymbolModel(
            embedding=embedding,
            weights=draw(WEIGHT_LIMIT, np.int8, len(OFFSETS) + q, EMBEDDING_DIM, HIDDEN_UNITS),
            row_bias=draw(bias, np.int32, grid[0], HIDDEN_UNITS),
            column_bias=draw(bias, np.int32, grid[1], HIDDEN_UNITS),
            query_weights=draw(WEIGHT_LIMIT, np.int8, HIDDEN_UNITS, EMBEDDING_DIM),
            query_bias=draw(bias, np.int32, EMBEDDING_DIM),
            gate_weights=draw(WEIGHT_LIMIT, np.int8, HIDDEN_UNITS),
            gate_bias=draw(bias, np.int32, 1),
            outputs=draw(WEIGHT_LIMIT, np.int8, size, EMBEDDING_DIM),
            output_bias=draw(bias, np.int32, size),
            bonus=draw(bonus, np.int32, COUNT_LIMIT + 1),
            shifts=np.asarray([5, 4, 9, 9, 9] if not extreme else [5, 3, 2, 2, 13], np.int32),
        )

    tables = [draw(WEIGHT_LIMIT, np.int8, size + 1, EMBEDDING_DIM) for size in sizes]
    each = zip(sizes, tables, strict=True)
    return CodePrior(tuple(symbol(q, size, table) for q, (size, table) in enumerate(each)))


def smooth_codes(
    n: int, grid: tuple[int, int], sizes: tuple[int, ...], seed: int = 0
) -> np.ndarray:
    """Codes `[n, h, w, Q]` that resemble their neighbours', as those of photographs do."""
    random = np.random.default_rng(seed)
    down = random.integers(-1, 2, (n, grid[0], 1)).cumsum(axis=1)
    across = random.integers(-1, 2, (n, *grid)).cumsum(axis=2)
    start = random.integers(0, max(sizes), (n, 1, 1))
    base = (start + down + across)[..., None] * np.arange(1, len(sizes) + 1)
    return (base + (random.random((*base.shape[:3], len(sizes))) < 0.1)) % np.asarray(sizes)


def ring_vectors(size: int, dim: int = 5) -> torch.Tensor:
    """`[size, dim]`: neighbouring values lie beside each other, as `smooth_codes` has them."""
    angles = torch.arange(size) * (2 * np.pi / size)
    waves = [torch.sin(angles * (1 + k // 2) + (k % 2) * np.pi / 2) for k in range(dim)]
    return torch.stack(waves, dim=1)


@lru_cache
def fitted_prior(sizes: tuple[int, ...], grid: tuple[int, int], images: int = 24) -> CodePrior:
    """A prior fitted to `smooth_codes`, in a few steps."""
    return fit_prior(smooth_codes(images, grid, sizes), [ring_vectors(size) for size in sizes])


def reference_frequencies(
    prior: CodePrior, q: int, at: tuple[int, int], codes_hwq: np.ndarray, count_k: np.ndarray
) -> np.ndarray:
    """Slots `[K]` of code q of the vector at row and column `at`, in int64 throughout."""
    model, (row, column) = prior.symbols[q], at
    rows, columns = prior.grid
    table_shift, hidden_shift, query_shift, gate_shift, logit_shift = map(int, model.shifts)
    hidden = model.row_bias[row].astype(np.int64) + model.column_bias[column]
    sources = [(p, row + r, column + c, range(len(prior.code_sizes)))
               for p, (r, c) in enumerate(OFFSETS)]  # fmt: skip
    sources += [(len(OFFSETS) + level, row, column, [level]) for level in range(q)]
    for p, r, c, levels in sources:
        for level in levels:
            inside = 0 <= r < rows and 0 <= c < columns
            code = codes_hwq[r, c, level] if inside else prior.code_sizes[level]
            embedding = prior.symbols[level].embedding[code].astype(np.int64)
            hidden += (embedding @ model.weights[p].astype(np.int64)) >> table_shift
    hidden = np.clip(hidden >> hidden_shift, 0, 511)
    query = (hidden @ model.query_weights.astype(np.int64) + model.query_bias) >> query_shift
    gate = (hidden @ model.gate_weights.astype(np.int64) + model.gate_bias.item()) >> gate_shift
    logits = model.outputs.astype(np.int64) @ np.clip(query, -1023, 1023) + model.output_bias
    logits += model.bonus[np.minimum(count_k, 7)].astype(np.int64) * int(np.clip(gate, -1023, 1023))
    return reference_slots((logits.max() - logits) >> logit_shift)


def reference_slots(steps_k: np.ndarray) -> np.ndarray:
    """Slots `[K]` of values that are so many units of 1/256 nat below the most probable one."""
    steps = np.minimum(steps_k, 4095)
    weights = exponentials()[steps]
    scale = (TOTAL - len(weights)) / weights.sum()
    slots = 1 + np.floor(weights * scale).astype(np.int64)
    slots[steps.argmin()] += TOTAL - slots.sum()
    return slots
