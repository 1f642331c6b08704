"""The folder of a run: how it is made or gone on with, and what is said of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xpnet.checkpoint import write_atomically
from xpnet.config import TrainConfig, make, settings_of
from xpnet.errors import CheckpointError, ConfigError
from xpnet.folder import alone, impossible

METRICS = "metrics.json"
"""What a run writes last."""

# What says where and how to train, not what is learnt: a run may go on with others.
_MAY_DIFFER = {"device", "threads", "checkpoint_every", "run", "resume"}


@contextmanager
def run_folder(config: TrainConfig) -> Iterator[Path]:
    """The folder of a run, new or gone on with, for the time of the block its alone.

    New, it gets `config.toml`; nothing that exists is ever written over. Raises `ConfigError` for
    a folder that cannot be had, and for `resume` with settings other than those of the run. To a
    `CheckpointError` for want of room it adds how to go on.
    """
    folder = config.resume or _made(config)
    if config.resume:
        require_same(config)
    with alone(folder):
        if not config.resume:
            if any(not path.name.startswith(".") for path in folder.iterdir()):
                raise _taken(folder)
            write_atomically(folder / "config.toml", config.to_toml().encode())
        try:
            yield folder
        except CheckpointError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            raise CheckpointError(
                f"{error}: make room, then {resume_command(config, folder)}"
            ) from error.__cause__


def _made(config: TrainConfig) -> Path:
    """The folder that `config.run` names, or a new one with the next free number."""
    if config.run:
        if config.run.exists() and not config.run.is_dir():
            raise _taken(config.run)
        return config.run
    name = Path(config.dataset).name.partition(".")[0] or "run"
    for number in range(1, 100_000):
        folder = Path("runs") / f"{name}-{number:03}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise impossible(folder, "made", error) from None
        return folder
    raise ConfigError("run: no free folder name is left in runs/: name one with --run")


def _taken(folder: Path) -> ConfigError:
    rest = f", or go on with it: --resume {folder}" if (folder / "config.toml").exists() else ""
    return ConfigError(f"run: {folder} exists and is not an empty folder: name another{rest}")


def require_same(config: TrainConfig) -> None:
    """Raise `ConfigError` unless `config` trains what the run `config.resume` trains."""
    assert config.resume is not None
    values = settings_of(config.resume)
    there = make(values, source=f"{config.resume / 'config.toml'}: ").model_dump()
    wrong = [
        f"{name} is {there[name]} there and {here} here"
        for name, here in config.model_dump().items()
        if here != there[name] and name not in _MAY_DIFFER
    ]
    if wrong:
        raise ConfigError(
            f"resume: {config.resume} is of a run with other settings ({'; '.join(wrong)}): leave "
            f"them out"
        )


def resume_command(config: TrainConfig, folder: Path) -> str:
    """What to type to let the run in `folder` go on."""
    words = ["python", "-m", "xpnet.train", "--resume", str(folder)]
    if config.resume and config.device != settings_of(folder).get("device"):
        words += ["--device", config.device]
    return shlex.join(words)
