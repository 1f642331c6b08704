"""The folder of a run: how it is made or gone on with, and what is said of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xpnet._files import folder_error, lock, write_atomically
from xpnet.config import TrainConfig, make, settings_of
from xpnet.data.catalogue import NAMES
from xpnet.errors import CheckpointError, ConfigError, short_repr
from xpnet.utils.shell import flag_of, shell_command

MODEL = "model.safetensors"
"""The trained network in the folder of a run."""

METRICS = "metrics.json"
"""What a run writes last."""

# What says where and how to train, not what is learnt: a run may go on with others.
_MAY_DIFFER = {"device", "threads", "checkpoint_every", "run", "resume"}


PLACES = ("dataset", "initial_model")
"""The settings that `config.toml` holds and that may be paths."""


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
    with lock(folder):
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
            raise folder_error(folder, "made", error) from None
        return folder
    raise ConfigError("run: no free folder name is left in runs/: name one with --run")


def _taken(folder: Path) -> ConfigError:
    rest = (
        f", or go on with it: {shell_command('--resume', folder)}"
        if (folder / "config.toml").exists()
        else ""
    )
    return ConfigError(f"run: {folder} exists and is not an empty folder: name another{rest}")


def require_same(config: TrainConfig) -> None:
    """Raise `ConfigError` unless `config` trains what the run `config.resume` trains."""
    assert config.resume is not None
    wrong = "; ".join(_differences(config, config.resume))
    if not wrong:
        return
    if (config.resume / METRICS).exists():
        first = shell_command(
            "python", "-m", "xpnet.train", "--config", config.resume / "config.toml"
        )
        more = shell_command("--initial-model", config.resume)
        raise ConfigError(
            f"resume: {config.resume} is finished and cannot be continued with other settings "
            f"({wrong}). To start a new run from its model: {first} {more}"
        )
    raise ConfigError(
        f"resume: {config.resume} is of a run with other settings ({wrong}): leave them out"
    )


def _differences(config: TrainConfig, folder: Path) -> Iterator[str]:
    values = settings_of(folder)
    there = make(values, source=f"{folder / 'config.toml'}: ").model_dump()
    for name, here in config.model_dump().items():
        if here == there[name] or name in _MAY_DIFFER:
            continue
        if name in PLACES and is_same_place(there[name], here):
            continue
        yield f"{name} is {_shown(there[name])} there and {_shown(here)} here"


def _shown(value: object) -> str:
    return short_repr(value, 200)


def is_same_place(there: str | None, here: str | None) -> bool:
    """Whether an absolute path may be what a relative one was, in another folder."""
    if there == here:
        return True
    if there is None or here is None or not Path(here).is_absolute():
        return False
    parts = Path(os.path.normpath(there)).parts
    end = [part for part in parts if part != ".."]
    return list(Path(os.path.normpath(here)).parts[-len(end) :]) == end


def resume_command(config: TrainConfig, folder: Path, *, anywhere: bool = False) -> str:
    """What to type to let the run in `folder` go on.

    `anywhere`: also in another folder than this one, so that every path is absolute.
    """
    words: list[str | Path] = ["--resume", folder.absolute() if anywhere else folder]
    if config.resume and config.device != settings_of(folder).get("device"):
        words += ["--device", config.device]
    if anywhere:
        words += absolute_places(config)
    return shell_command("python", "-m", "xpnet.train", *words)


def absolute_places(config: TrainConfig) -> list[str | Path]:
    """The flags that say where the relative paths of `config` lead from here."""
    words: list[str | Path] = []
    for name in PLACES:
        path = getattr(config, name)
        is_name = path is None or (name == "dataset" and path in NAMES)
        if not is_name and not Path(path).expanduser().is_absolute():
            words += [flag_of(name), Path(path).absolute()]
    return words
