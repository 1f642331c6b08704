"""Whether this process is one of several that a launcher such as mpiexec has started."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NoReturn

from xpnet.errors import ConfigError

_LAUNCHERS = {
    "mpiexec": (("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "PMI_RANK")),
    "srun": (("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),),
    "torchrun": (("WORLD_SIZE", "RANK"),),
}
"""The variables in which launchers say how many processes they have started, and which one it is.

`WORLD_SIZE` alone is set in some containers, too.
"""


@dataclass(frozen=True)
class Launched:
    """`by`: the name of the launcher; `size`: how many processes it has started; `rank`: this one.

    `rank` counts from 0.
    """

    by: str
    size: int
    rank: int


def launched() -> Launched | None:
    """What the environment says of the launcher of this process; None where there was none."""
    for by, pairs in _LAUNCHERS.items():
        for pair in pairs:
            size, rank = (os.environ.get(name, "") for name in pair)
            if size.isdecimal() and rank.isdecimal() and int(rank) < int(size):
                return Launched(by, int(size), int(rank))
    return None


def refuse(found: Launched, message: str) -> NoReturn:
    """Raise `ConfigError` in the first of the processes, and end the others without a message."""
    if found.rank:
        raise SystemExit(ConfigError.exit_code)
    raise ConfigError(message)


def require_alone(command: str) -> None:
    """Raise `ConfigError` where `command` was started as one of several processes."""
    found = launched()
    if found is not None and found.size > 1:
        refuse(
            found,
            f"{command} runs as a single process, but {found.by} has started {found.size}: start "
            f"it without {found.by}",
        )
