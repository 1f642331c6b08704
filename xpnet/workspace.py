"""Buffers that are allocated once and reused for later batches."""

from __future__ import annotations

import math
from typing import Any

import numpy

from xpnet.backend import Array, not_substituted, zeros


class Workspace:
    """Named scratch arrays of one owner (a layer, a loss, an optimizer).

    An array is allocated when its name is first requested, and again only if it must grow or change
    its dtype. A smaller shape gets a view of the same memory, so a short last batch costs no
    allocation and memory never grows with the number of batch sizes. While a step is recorded,
    what is allocated here is no operation of it.
    """

    def __init__(self) -> None:
        # By the hash of the array module: a substitute of it must not be kept alive here.
        self._memory: dict[tuple[int, str], Array] = {}
        self._views: dict[tuple[int, str], Array] = {}

    def array(self, xp: Any, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """The contiguous array called `name`; its content is undefined."""
        key = (hash(xp), name)
        view = self._views.get(key)
        if view is not None and view.shape == shape and view.dtype == dtype:
            return view
        size, memory = math.prod(shape), self._memory.get(key)
        if memory is None or memory.dtype != dtype or len(memory) < size:
            memory = self._memory[key] = zeros(xp, size, dtype)
        view = self._views[key] = memory[:size].reshape(shape)
        return view

    def zeros(self, xp: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        """Zeros to compare with: for NumPy, `maximum` of two arrays is faster than of a number."""
        key = (hash(xp), "zeros")
        view = self._views.get(key)
        if view is not None and view.shape == shape and view.dtype == dtype:
            return view
        size, memory = math.prod(shape), self._memory.get(key)
        if memory is None or memory.dtype != dtype or len(memory) < size:
            memory = self._memory[key] = zeros(xp, size, dtype)
        view = self._views[key] = memory[:size].reshape(shape)
        return view

    def ones(self, xp: Any, size: int, dtype: Any) -> Array:
        """A vector of `size` ones: `ones @ a` sums the rows of `a` in one BLAS call."""
        memory = self._memory.get((hash(xp), "ones"))
        if memory is None or memory.dtype != dtype or len(memory) < size:
            memory = not_substituted(xp).ones(size, dtype=dtype)
            self._memory[hash(xp), "ones"] = memory
            if isinstance(memory, numpy.ndarray):
                memory.flags.writeable = False  # so that a compiled step can rely on it
        return memory[:size]

    def numbers(self, xp: Any, size: int, dtype: Any) -> Array:
        """The vector `0, 1, …, size − 1`."""
        memory = self._memory.get((hash(xp), "numbers"))
        if memory is None or memory.dtype != dtype or len(memory) < size:
            memory = not_substituted(xp).arange(size, dtype=dtype)
            self._memory[hash(xp), "numbers"] = memory
        return memory[:size]

    def classes(self, xp: Any, count: int, labels: Array) -> Array:
        """The class numbers `0, 1, …, count − 1`, to be compared with integer `labels`.

        In the dtype of the labels where it holds all of them, else in int64: 256 would silently
        become 0 in uint8.
        """
        bits = 8 * labels.dtype.itemsize - (labels.dtype.kind == "i")
        return self.numbers(xp, count, labels.dtype if count <= 2**bits else xp.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays made so far."""
        return sum(memory.nbytes for memory in self._memory.values())

    def __reduce__(self) -> tuple[type[Workspace], tuple[()]]:
        """A copy or a pickle is empty, since the content is only scratch."""
        return Workspace, ()
