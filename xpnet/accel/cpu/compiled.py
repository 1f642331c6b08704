"""Compiles `void function(int64 *arguments, int64 number)`, with a cache on disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba
from numba import types
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.runtime.nrt import rtsys

SIGNATURE = types.void(types.CPointer(types.int64), types.int64)


def inlined(function: Callable[..., Any]) -> Any:
    """Decorator of a function that compiled functions call; it is compiled as a part of them."""
    return numba.njit(nogil=True, error_model="numpy")(function)


@cache
def _digest() -> str:
    """Of the source of all that may be compiled into a function."""
    here = Path(__file__).parent
    files = [*sorted(here.glob("*.py")), *sorted(here.parent.glob("numba_*.py"))]
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


class _Cache(FunctionCache):
    """numba's cache, which knows the processor, but compares the function's own file alone."""

    def _index_key(self, signature: Any, codegen: Any) -> Any:
        return *super()._index_key(signature, codegen), _digest()

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        # numba would first load all that it needs to compile, which takes half a second. Machine
        # code needs its runtime alone; where nothing is in the cache, compiling loads the rest.
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(signature, target_context)


def compiled(function: Callable[..., None]) -> Any:
    """`function`, compiled now or loaded from the cache.

    `.address` is what a record takes, `.ctypes` a function of Python's that calls it.

    Constants come from an enclosing function: the cache tells them apart.
    """
    options = {"nopython": True, "error_model": "numpy"}
    result: Any = CFunc(function, (SIGNATURE.args, SIGNATURE.return_type), {}, options)
    result._cache = _Cache(function)
    result.compile()
    return result
