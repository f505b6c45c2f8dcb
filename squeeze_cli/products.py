"""How exactly torch multiplies float32 matrices on a CPU.

oneDNN can round what goes into a product to bfloat16 and still add up and give float32. Where a CPU
multiplies bfloat16 by itself (AMX), that is a third of the time, and unlike autocast it copies no
weights and no gradients from one type to the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def bf16_products(enabled: bool = True) -> Iterator[None]:
    """Within the block float32 products take their factors as bfloat16, in backward passes too."""
    with _precision("medium" if enabled else torch.get_float32_matmul_precision()):
        yield


@contextmanager
def exact_products() -> Iterator[None]:
    """Within the block they take them whole, whatever is around it."""
    with _precision("highest"):
        yield


@contextmanager
def _precision(name: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
