"""Settings of the current thread: whether kernels, recording and CUDA graphs are used.

One `ContextVar` holds it. A new thread starts with the defaults.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any


@dataclass(frozen=True, slots=True)
class Context:
    """The settings of a thread.

    `kernels_enabled`, `recording_enabled`, `graphs_enabled`, `compiled_enabled`: False leaves out
    kernels, recorded steps, CUDA graphs, or steps of compiled loops, for tests and measurements
    that compare the two. `kernels`: the array module
    and the kernels for its arrays, while they are in use. `precision`: of products of two float32
    matrices on a GPU. `substitute`: what `array_module` returns
    in place of the array module that it equals: see `xpnet.accel.program`. `part`: of the batch
    that is computed at present, if it is in parts: see `xpnet.accel.part_threads`. `group`,
    `rows_of_group`: the ranks that compute it, and its rows on all of them, if they are several:
    see `xpnet.distributed.group`.
    """

    kernels_enabled: bool = True
    recording_enabled: bool = True
    graphs_enabled: bool = True
    compiled_enabled: bool = True
    kernels: tuple[Any, ModuleType] | None = None
    precision: str = "float32"
    substitute: Any = None
    part: int | None = None
    group: Any = None
    rows_of_group: int = 0


def from_environment() -> Context:
    """The defaults: `XPNET_KERNELS=0` turns kernels off."""
    return Context(kernels_enabled=os.environ.get("XPNET_KERNELS", "1") != "0")


_DEFAULTS = from_environment()
_context: ContextVar[Context] = ContextVar("xpnet", default=_DEFAULTS)

current = _context.get
"""The settings of this thread: `current() -> Context`."""


def change(**settings: Any) -> None:
    """Change settings of this thread permanently."""
    _context.set(replace(current(), **settings))


@contextmanager
def changed(**settings: Any) -> Iterator[None]:
    """Within the block this thread has other settings."""
    token = _context.set(replace(current(), **settings))
    try:
        yield
    finally:
        _context.reset(token)
