"""`Group`: the processes that train one network together, each of them a rank.

Ranks have the same network, data and settings. Of each batch a rank computes its slice of the rows,
and the gradients of all ranks are added; so every rank makes the same update.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from xpnet.accel.program import Op, run_op
from xpnet.backend import Array, Backend, HostArray, array_module
from xpnet.backend.context import changed, current

T = TypeVar("T")


class Group:
    """One process alone, and the base of all groups.

    `rank`: the number of this process, from 0; `size`: the number of processes. All ranks call the
    same methods in the same order; a method returns when all ranks have called it.
    """

    rank = 0
    size = 1
    is_recorded = False
    """Whether a step on a GPU that calls `all_reduce` can be recorded."""

    def own_gpu(self) -> str:
        """The device of this rank, where each rank is to have a GPU of its own."""
        return "cuda"

    def connect(self, backend: Backend) -> None:
        """Prepare for arrays of `backend`, outside of a step."""
        return

    def wait_for_device(self) -> None:
        """Wait, before the host reads arrays, for sums that other ranks may not take part in."""
        return

    def all_reduce(self, array: Array) -> None:
        """`array ← Σ array` over all ranks, in place, with the same bits on each of them.

        In a training step it is recorded and replayed, like an `xp` operation.
        """
        if self.size > 1:
            self._record("all_reduce", array, partial(self._sum, array))

    def exchange_add(self, array: Array, received: Array, other: int) -> None:
        """`array ← array + that of rank other`, which calls this for this rank; recorded too.

        `received`: a buffer of the same shape. As `a + b = b + a`, both have the same bits.
        """
        self._record("exchange", received, partial(self._exchange, array, received, other), array)
        array_module(array).add(array, received, out=array)

    def all_gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order: values of JSON, where a tuple becomes a list."""
        return [value]

    def broadcast(self, value: T) -> T:
        """The value of rank 0, a value of JSON."""
        return value

    def broadcast_arrays(self, arrays: dict[str, HostArray]) -> dict[str, HostArray]:
        """The arrays of rank 0."""
        return arrays

    def smallest(self, value: int) -> int:
        """The smallest value over the ranks."""
        return min(self.all_gather(value))

    def failure(self, seconds: float = 0.0) -> tuple[int, int, str] | None:
        """Rank, exit code and error of the lowest rank that is known to have failed, or None.

        Waits up to `seconds` for one that is lower than this one.
        """
        return None

    @contextmanager
    def training(self) -> Iterator[None]:
        """A training by this group: if it fails on this rank, the others are notified."""
        yield

    def _sum(self, array: Array) -> None:
        """`all_reduce` at once."""
        raise NotImplementedError

    def _exchange(self, array: Array, received: Array, other: int) -> None:
        """Send `array` to a rank, and receive its array."""
        raise NotImplementedError

    def _record(self, name: str, output: Array, call: Any, *inputs: Array) -> None:
        # The output is read, too.
        run_op(array_module(output), Op(name, (output, *inputs), output, call))


ALONE = Group()
"""The group of a process that trains alone."""


@contextmanager
def batch_of(group: Group, rows: int) -> Iterator[None]:
    """In the block, layers compute a rank's slice of a batch that has `rows` rows on all ranks."""
    with changed(group=group, rows_of_group=rows):
        yield


def batch_share(rows: int, rows_of_sample: int = 1) -> tuple[Group, int]:
    """The group that computes the current batch, and the rows of the batch on all its ranks.

    `rows`: how many this process has. Without a group it is alone, and they are all.
    `rows_of_sample`: 1, or the pixels of an image each of which is a row.
    """
    group = current().group
    if group is None:
        return ALONE, rows
    return group, current().rows_of_group * rows_of_sample
