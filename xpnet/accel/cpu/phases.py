"""Phases: operations whose parts several threads may run at the same time.

An operation is cut into parts, which do not depend on the number of threads. Between two phases
every thread waits until all parts of the first one are complete. Within a phase, a part runs its
share of each operation in order, and no part touches what another one writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from xpnet.accel.cpu.regions import Region
from xpnet.backend import HostArray


@dataclass(frozen=True, slots=True)
class Work:
    """One call of a loop: its name, its block of arguments, and the memory that it touches."""

    loop: str
    arguments: HostArray
    reads: tuple[Region, ...]
    writes: tuple[Region, ...]


Parts = Sequence[Sequence[Work]]
"""The work of each part of an operation; a part may have none."""


@dataclass
class Phase:
    """The work of each part; `reads` and `writes` are the memory that the part touches."""

    parts: list[list[Work]]
    reads: list[list[Region]] = field(init=False)
    writes: list[list[Region]] = field(init=False)

    def __post_init__(self) -> None:
        self.reads = [[r for work in part for r in work.reads] for part in self.parts]
        self.writes = [[r for work in part for r in work.writes] for part in self.parts]

    def takes(self, other: Phase) -> bool:
        """Whether `other` may follow within this phase."""
        return not (
            _any_overlap(self.writes, other.reads)
            or _any_overlap(self.writes, other.writes)
            or _any_overlap(self.reads, other.writes)
        )

    def meets(self, other: Phase) -> bool:
        """Whether `other` reads what this phase writes, or writes what this one reads or writes."""
        return (
            _any_overlap(self.writes, other.reads, same_part=True)
            or _any_overlap(self.writes, other.writes, same_part=True)
            or _any_overlap(self.reads, other.writes, same_part=True)
        )

    def append(self, other: Phase) -> None:
        """Let each part of `other` follow the part of the same number."""
        for mine, its in ("parts", "parts"), ("reads", "reads"), ("writes", "writes"):
            for one, more in zip(getattr(self, mine), getattr(other, its), strict=True):
                one += more


def _any_overlap(
    some: Sequence[Sequence[Region]], others: Sequence[Sequence[Region]], same_part: bool = False
) -> bool:
    """Whether a region of one part overlaps one of another part, or with `same_part` of any."""
    start, end, part = _bounds(some)
    other_start, other_end, other_part = _bounds(others)
    # Most pairs lie apart, which NumPy finds much faster than Python.
    meet = (start[:, None] < other_end) & (other_start < end[:, None])
    if not same_part:
        meet &= part[:, None] != other_part
    here = [region for part in some for region in part]
    there = [region for part in others for region in part]
    return any(here[i].overlaps(there[j]) for i, j in zip(*np.nonzero(meet), strict=True))


def _bounds(parts: Sequence[Sequence[Region]]) -> HostArray:
    """`(3, n)`: the first address of each region, the one after its last, and its part."""
    rows = [(r.start, r.end, number) for number, part in enumerate(parts) for r in part]
    return np.array(rows, np.int64).reshape(-1, 3).T


def phases(operations: Iterable[Parts]) -> list[Phase]:
    """The operations in as few phases as their parts allow; all have as many parts.

    An operation is put into the last phase with which it shares memory, if no part of it needs what
    another part does there; else into the last one of all, or into one after that. So one that
    shares no memory with others stays where it is: its arrays are in the caches then.
    """
    found: list[Phase] = []
    for parts in operations:
        new = Phase([list(part) for part in parts])
        place = next((p for p in reversed(found) if p.meets(new)), None)
        if place is None or not place.takes(new):
            place = found[-1] if found and found[-1].takes(new) else None
        if place is None:
            found.append(new)
        else:
            place.append(new)
    return found
