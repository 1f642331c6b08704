"""The folder of a run: creating or resuming it, and the command that resumes it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xpnet._files import folder_error, lock, write_atomically
from xpnet.config import TrainConfig, make_config, read_settings
from xpnet.data.catalogue import NAMES
from xpnet.errors import CheckpointError, ConfigError, short_repr
from xpnet.utils.shell import flag_of, shell_command

MODEL = "model.safetensors"
"""The trained network in the folder of a run."""

METRICS = "metrics.json"
"""The file that a run writes last."""

REPORT = "report.html"
"""The HTML page of a run."""

# These settings do not change the result: a run may be resumed with others.
_MAY_DIFFER = {"device", "threads", "checkpoint_every", "run", "resume", "report"}


PATH_SETTINGS = ("dataset", "initial_model")
"""The settings in `config.toml` that may be paths."""


@contextmanager
def run_folder(config: TrainConfig) -> Iterator[Path]:
    """The folder of a run, new or resumed, locked during the block.

    A new folder gets `config.toml`; existing files are never overwritten. Raises `ConfigError` for
    a folder that cannot be used, and for `resume` with settings other than those of the run. It
    adds the command that resumes the run to a `CheckpointError` for a full disk.
    """
    folder = config.resume or _new_folder(config)
    if config.resume:
        require_same_settings(config)
    with lock(folder):
        if not config.resume:
            if any(not path.name.startswith(".") for path in folder.iterdir()):
                raise _exists_error(folder)
            write_atomically(folder / "config.toml", config.to_toml().encode())
        try:
            yield folder
        except CheckpointError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            raise CheckpointError(
                f"{error}: free disk space, then {resume_command(config, folder)}"
            ) from error.__cause__


def _new_folder(config: TrainConfig) -> Path:
    """The folder named by `config.run`, or a new one with the next free number."""
    if config.run:
        if config.run.exists() and not config.run.is_dir():
            raise _exists_error(config.run)
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


def _exists_error(folder: Path) -> ConfigError:
    rest = (
        f", or resume it: {shell_command('--resume', folder)}"
        if (folder / "config.toml").exists()
        else ""
    )
    return ConfigError(f"run: {folder} exists and is not an empty folder: name another{rest}")


def require_same_settings(config: TrainConfig) -> None:
    """Raise `ConfigError` unless `config` has the settings of the run `config.resume`."""
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
        f"resume: {config.resume} is a run with other settings ({wrong}): leave them out"
    )


def _differences(config: TrainConfig, folder: Path) -> Iterator[str]:
    values = read_settings(folder)
    there = make_config(values, source=f"{folder / 'config.toml'}: ").model_dump()
    for name, here in config.model_dump().items():
        if here == there[name] or name in _MAY_DIFFER:
            continue
        if name in PATH_SETTINGS and is_same_path(there[name], here):
            continue
        yield f"{name} is {_repr(there[name])} there and {_repr(here)} here"


def _repr(value: object) -> str:
    return short_repr(value, 200)


def is_same_path(there: str | None, here: str | None) -> bool:
    """Whether the absolute path `here` may be the relative path `there` of another folder."""
    if there == here:
        return True
    if there is None or here is None or not Path(here).is_absolute():
        return False
    parts = Path(os.path.normpath(there)).parts
    end = [part for part in parts if part != ".."]
    return list(Path(os.path.normpath(here)).parts[-len(end) :]) == end


def resume_command(config: TrainConfig, folder: Path, *, anywhere: bool = False) -> str:
    """The command that resumes the run in `folder`.

    `anywhere`: it works in any working directory, since all paths are absolute.
    """
    words: list[str | Path] = ["--resume", folder.absolute() if anywhere else folder]
    if config.resume and config.device != read_settings(folder).get("device"):
        words += ["--device", config.device]
    if anywhere:
        words += absolute_path_flags(config)
    return shell_command("python", "-m", "xpnet.train", *words)


def absolute_path_flags(config: TrainConfig) -> list[str | Path]:
    """The flags that set the relative paths of `config` to absolute paths."""
    words: list[str | Path] = []
    for name in PATH_SETTINGS:
        path = getattr(config, name)
        is_name = path is None or (name == "dataset" and path in NAMES)
        if not is_name and not Path(path).expanduser().is_absolute():
            words += [flag_of(name), Path(path).absolute()]
    return words
