"""`steady(backend)`: in the block a device does not wait, transfer or take new memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import strict_cupy

from xpnet.backend import Backend


@contextmanager
def steady(backend: Backend, *, allocates: bool = False) -> Iterator[None]:
    """Raise in the block for what a steady step must not do; with `allocates` it may allocate.

    On the double by its ledger. On CuPy by CuPy's own check of synchronisations, by its pinned
    memory, through which arrays of the host are transferred, and by a hook of the memory pool:
    temporary arrays of CuPy's own come from there, but nothing may come from the driver.
    """
    if backend.xp is strict_cupy.xp:
        with strict_cupy.forbid("sync", "d2h", *(() if allocates else ("h2d", "alloc"))):
            yield
        return
    import cupyx

    cuda, pinned = backend.xp.cuda, backend.xp.get_default_pinned_memory_pool()
    allocated: list[int] = []

    class Hook(cuda.MemoryHook):  # type: ignore[misc, name-defined]
        name = "steady"

        def alloc_preprocess(self, device_id: int, mem_size: int) -> None:
            allocated.append(mem_size)

    def refuse(size: int) -> Any:
        raise AssertionError(f"{size} bytes are transferred to the device")

    with warnings.catch_warnings():
        # Deprecated since false alarms are possible; there are none in what xpnet calls.
        warnings.filterwarnings("ignore", "cupyx.allow_synchronize", UserWarning)
        cuda.set_pinned_memory_allocator(refuse)
        try:
            with cupyx.allow_synchronize(False), Hook():
                yield
        finally:
            cuda.set_pinned_memory_allocator(pinned.malloc)
    assert allocates or not allocated, f"allocations of {allocated} bytes"
