"""Objects that only one `fit()` may use at a time."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any, TypeVar

from xpnet.errors import ConfigError
from xpnet.workspace import Workspace

T = TypeVar("T")

# Of all trainings under way; by process too, as a fork may happen while another thread trains.
_in_use: dict[tuple[int, int], object] = {}


class ExclusiveUse:
    """A context: what is taken in its block is this training's until the block ends."""

    def __init__(self) -> None:
        self._taken: set[tuple[int, int]] = set()

    def __enter__(self) -> ExclusiveUse:
        return self

    def __exit__(self, *_: Any) -> None:
        for key in self._taken:
            del _in_use[key]

    def _takes(self, thing: object) -> bool:
        key = os.getpid(), id(thing)
        if _in_use.setdefault(key, self) is not self:
            return False
        self._taken.add(key)
        return True

    def alone(self, things: Mapping[str, object]) -> None:
        """Take the `things`, by name. Raises `ConfigError` for one that is in use elsewhere."""
        for name, thing in things.items():
            if not self._takes(thing):
                raise ConfigError(
                    f"{name} is in use by another fit() at this moment: give each fit() one of "
                    f"its own, or let one end before the other begins"
                )

    def or_copy(self, thing: T) -> T:
        """Take `thing`; one that is in use elsewhere as a copy with buffers of its own."""
        return thing if self._takes(thing) else with_own_buffers(thing)


def require_free(thing: object, what: str) -> None:
    """Raise `ConfigError` while a training has taken `thing`: `what` has to wait for its end."""
    if (os.getpid(), id(thing)) in _in_use:
        raise ConfigError(f"{what} while fit() trains the network: do it before or after")


def with_own_buffers(thing: T) -> T:
    """A shallow copy of `thing`, which has a `workspace`, with an empty one."""
    other = copy.copy(thing)
    vars(other)["workspace"] = Workspace()
    return other
