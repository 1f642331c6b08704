"""A command that several processes run together, each of them a rank."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path

from xpnet.cli import console
from xpnet.distributed.group import Group
from xpnet.distributed.mpi_group import joined
from xpnet.errors import RankError, XpnetError, exit_code

SECONDS = 2.0
"""How long a rank with an error waits for that of a lower rank, which then prints it for both."""


class HelpPrinted(SystemExit):
    """`--help` ends every rank alike, and none of them has failed."""

    on_all_ranks = True


def run(action: Callable[[Group], None]) -> int:
    """The exit code of `action(group)`, as `console.run` gives it; one rank prints for all."""

    def on_ranks() -> int:
        group = joined()
        with _one_report(group), group.training():
            action(group)
        return 0

    return console.run(on_ranks)


@contextmanager
def _one_report(group: Group) -> Iterator[None]:
    """In the block rank 0 alone prints; of the ranks with an error, the lowest one reports it."""
    try:
        with ExitStack() as stack:
            if group.rank:
                nowhere = stack.enter_context(Path(os.devnull).open("w"))
                stack.enter_context(redirect_stdout(nowhere))
            yield
    except (Exception, KeyboardInterrupt) as error:
        is_reported = isinstance(error, RankError) and error.reported
        if group.rank and not is_reported:
            other = group.failure(SECONDS)
            is_reported = other is not None and other[0] < group.rank
            is_reported = is_reported or getattr(error, "on_all_ranks", False)
        if is_reported:
            raise SystemExit(exit_code(error)) from None
        if group.rank and isinstance(error, XpnetError):
            error.args = (f"rank {group.rank}: {error}",)
        raise
