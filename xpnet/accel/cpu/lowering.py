"""Lowers the operations of a recorded step to compiled loops on parts of arrays.

Each operation becomes one call of a loop for each of `PARTS` parts, with the memory that it reads
and writes; `phases` then puts operations together whose parts do not meet. An operation that has no
loop, or arrays that no loop takes, is called in Python, with those next to it in one call. That
holds for all but products of matrices: those of BLAS would depend on the number of threads, so they
raise `NotLowered`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from xpnet.accel.cpu import tiles
from xpnet.accel.cpu.lower_base import NotLowered
from xpnet.accel.cpu.lower_elements import Elements
from xpnet.accel.cpu.lower_products import Products
from xpnet.accel.cpu.lower_samples import Samples
from xpnet.accel.cpu.lower_updates import Updates


class Lowering(Elements, Products, Samples, Updates):
    """The operations of a step, lowered one after the other; `_op_name` and `_kernel_name` do it.

    `tables`: `(steps, n)`; in step `s` row `s` of each takes the place of its row 0.
    """


@cache
def product() -> Any:
    """The product of matrices, compiled for this processor. Raises `NotLowered`."""
    lanes = tiles.lanes()
    if lanes is None:
        raise NotLowered("products on this processor")
    return tiles.product(lanes)
