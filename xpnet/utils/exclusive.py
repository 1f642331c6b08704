"""Objects that only one `fit()` or `TrainStep` may use at a time."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from threading import Lock
from typing import Any, TypeVar
from weakref import ref

from xpnet.errors import ConfigError

T = TypeVar("T")

# Of all running trainings. The process id is in the key since another thread may fork.
_in_use: dict[tuple[int, int], ref[ExclusiveUse]] = {}
_lock = Lock()


class ExclusiveUse:
    """A context manager: objects acquired in its block are in use by one training until it ends.

    Ctrl-C at the beginning or the end of the block may leave some: they are free once this object
    is gone.
    """

    def __init__(self) -> None:
        self._acquired: set[tuple[int, int]] = set()
        self._reference = ref(self)

    def __enter__(self) -> ExclusiveUse:
        return self

    def __exit__(self, *_: Any) -> None:
        for key in self._acquired:
            del _in_use[key]

    def _try_acquire(self, thing: object) -> bool:
        key = os.getpid(), id(thing)
        if not _is_in_use(key):
            _forget_left(key)
        if _in_use.setdefault(key, self._reference) is not self._reference:
            return False
        self._acquired.add(key)
        return True

    def acquire(self, things: Mapping[str, object]) -> None:
        """Acquire `things`, by name. Raises `ConfigError` for one that another training uses."""
        for name, thing in things.items():
            if not self._try_acquire(thing):
                raise ConfigError(
                    f"{name} is in use by another fit() or TrainStep at this moment: give each of "
                    f"them one of its own, or let one end before the other begins"
                )

    def acquire_or_copy(self, thing: T) -> T:
        """Acquire `thing`; if another training uses it, a copy of it with its own buffers."""
        return thing if self._try_acquire(thing) else with_own_buffers(thing)


def _is_in_use(key: tuple[int, int]) -> bool:
    use = _in_use.get(key)
    return use is not None and use() is not None


def _forget_left(key: tuple[int, int]) -> None:
    """Remove what Ctrl-C has left; another thread may have acquired it meanwhile."""
    with _lock:
        if key in _in_use and not _is_in_use(key):
            del _in_use[key]


def require_free(thing: object, what: str) -> None:
    """Raise `ConfigError` while a training uses `thing`; `what` is what it prevents."""
    if _is_in_use((os.getpid(), id(thing))):
        raise ConfigError(
            f"{what} while fit() or a TrainStep trains the network: do it before or after"
        )


def with_own_buffers(thing: T) -> T:
    """A shallow copy of `thing`, which has a `workspace`, with an empty workspace."""
    other: Any = copy.copy(thing)
    other.workspace = type(other.workspace)()
    return other  # type: ignore[no-any-return]
