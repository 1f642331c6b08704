"""What the pretended device did in this process."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from cupy_on_cpu import hook


@cache
def _names() -> list[str]:
    name_of = hook.load().pretended_device_counter_name
    name_of.restype = ctypes.c_char_p
    found = []
    while name := name_of(len(found)):
        found.append(name.decode())
    return found


def counts() -> dict[str, int]:
    """All counters, by name."""
    array = ctypes.c_longlong * len(_names())
    values = array.in_dll(hook.load(), "pretended_device_counters")
    return dict(zip(_names(), values, strict=True))


@contextmanager
def counting() -> Iterator[dict[str, int]]:
    """At the end of the block the dictionary has what was counted in it, without zeros."""
    before, found = counts(), {}
    yield found
    found |= {name: n - before[name] for name, n in counts().items() if n != before[name]}


def trace(on: bool) -> None:
    """One line on stderr for each operation."""
    ctypes.c_int.in_dll(hook.load(), "pretended_device_trace").value = int(on)


def products() -> dict[int, int]:
    """The matrix products so far, by cuBLAS' compute type."""
    cublas = ctypes.CDLL(str(hook.folder() / hook.LIBRARIES["cublas"]))
    found = (ctypes.c_longlong * 128).in_dll(cublas, "pretended_device_products")
    return {kind: count for kind, count in enumerate(found) if count}
