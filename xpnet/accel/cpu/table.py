"""All compiled loops by name, compiled (or loaded from the cache) at the first use."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from xpnet.accel.cpu import loops, sample_loops, vector_loops
from xpnet.accel.cpu.compiled import compiled
from xpnet.accel.cpu.tiles import lanes


@cache
def _written(bits: int) -> dict[str, loops.Loop]:
    found = loops.loops(bits) | sample_loops.loops(bits)
    has_vectors = bits == 32 and lanes() == vector_loops.LANES
    return found | vector_loops.loops() if has_vectors else found


def names() -> frozenset[str]:
    """The names of all loops."""
    return frozenset(_written(32))


@cache
def loop(name: str, dtype: str = "float32") -> Any:
    """The loop `name` on floats of `dtype`; `.address` is for a record."""
    return compiled(_written(8 * np.dtype(dtype).itemsize)[name])
