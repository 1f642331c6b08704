"""Whether this process is one of several that a launcher such as mpiexec has started."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NoReturn

from xpnet.errors import ConfigError

_SIZES = {
    "mpiexec": ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"),
    "srun": ("SLURM_STEP_NUM_TASKS",),
    "torchrun": ("WORLD_SIZE",),
}
"""The variables in which launchers say how many processes they have started."""


_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID", "RANK")


@dataclass(frozen=True)
class Launched:
    """`by`: the name of the launcher; `size`: how many processes it has started."""

    by: str
    size: int


def launched() -> Launched | None:
    """What the environment says of the launcher of this process; None where there was none."""
    for by, names in _SIZES.items():
        if by == "torchrun" and "LOCAL_RANK" not in os.environ:
            continue  # WORLD_SIZE is set in some containers, too
        for name in names:
            text = os.environ.get(name, "")
            if text.isdecimal() and int(text) > 0:
                return Launched(by, int(text))
    return None


def refuse(message: str) -> NoReturn:
    """Raise `ConfigError` in the first of the processes, and end the others without a message."""
    if any(os.environ.get(name, "0") != "0" for name in _RANKS):
        raise SystemExit(ConfigError.exit_code)
    raise ConfigError(message)


def require_alone(command: str) -> None:
    """Raise `ConfigError` where `command` was started as one of several processes."""
    found = launched()
    if found is not None and found.size > 1:
        refuse(
            f"{command} runs as a single process, but {found.by} has started {found.size}: start "
            f"it without {found.by}"
        )
