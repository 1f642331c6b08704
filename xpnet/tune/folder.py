"""The folder of a search: its lock, its settings, and the journal of a process that was killed."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from xpnet._files import lock, remove_temporary, write_atomically
from xpnet.config import make_config
from xpnet.errors import ConfigError
from xpnet.tune.owners import FOLDER, LOCK, Owners, living
from xpnet.utils.toml import read_toml

JOURNAL, SETTINGS = "trials.journal", "search.toml"


@contextmanager
def search_folder(folder: Path, settings: str, shared: bool = False) -> Iterator[Owners | None]:
    """Lock `folder` for a new or resumed search with these settings (TOML).

    If it is `shared`, it is locked only while it is prepared, and the block is given the processes
    that share it.

    Raises `ConfigError` when the folder cannot be made, holds other files, is in use by another
    process, or belongs to a search with other settings, naming the differences.
    """
    with ExitStack() as stack:
        with lock(folder, "folder", "search", tidy=False):
            others = _others(folder)
            if others and not shared:
                count = f"{len(others)} process{'es' * (len(others) > 1)}"
                raise ConfigError(
                    f"folder: {folder} is in use by {count} with --shared: add --shared, or name "
                    f"another with --folder"
                )
            _prepare(folder, settings, is_alone=not others)
            if not shared:
                yield None
                return
            owners = stack.enter_context(Owners(folder))
        yield owners


def _others(folder: Path) -> set[str]:
    """The processes that share the search in `folder`."""
    if not (folder / FOLDER).exists():
        return set()
    (folder / LOCK).touch()
    return living(folder, (folder / LOCK).stat().st_mtime)


def _prepare(folder: Path, settings: str, is_alone: bool) -> None:
    """Make `search.toml`, or compare it with `settings`; repair what a killed process has left."""
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if SETTINGS not in names and names - {JOURNAL}:
        raise ConfigError(
            f"folder: {folder} exists and holds no search: name another with --folder"
        )
    if is_alone:  # else others may be writing these files
        remove_temporary(folder)
        for left in folder.glob(f"{JOURNAL}.*"):
            left.unlink()
        with (folder / JOURNAL).open("ab") as journal:
            journal.truncate((folder / JOURNAL).read_bytes().rfind(b"\n") + 1)
    if SETTINGS in names:
        _compare(folder, read_toml(folder / SETTINGS), tomllib.loads(settings))
    else:
        write_atomically(folder / SETTINGS, settings.encode())


def _compare(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    def flat(settings: dict[str, Any]) -> dict[str, Any]:
        space = settings.get("space", {})
        # A setting that an older xpnet did not have had its default.
        base = tomllib.loads(make_config({}).to_toml()) | settings.get("base", {})
        return {
            **{key: value for key, value in settings.items() if not isinstance(value, dict)},
            **{f"space.{key}": value for key, value in space.items()},
            "order of space": list(space),
            **{f"base.{key}": value for key, value in base.items()},
        }

    before, now = flat(there), flat(here)
    wrong = [
        f"{key} {before.get(key, 'not set')} there, {now.get(key, 'not set')} here"
        for key in before | now
        if before.get(key) != now.get(key)
    ]
    if wrong:
        raise ConfigError(
            f"folder: {folder} belongs to another search ({'; '.join(wrong)}): name another with "
            f"--folder"
        )
