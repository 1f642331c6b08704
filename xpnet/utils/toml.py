"""Settings in a TOML file: how a value is written, and a file read."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from xpnet.errors import ConfigError, one_line

TOO_LARGE = 2**63
"""The smallest whole number that TOML cannot hold."""

_MOST_CHARACTERS = 2**17
_MOST_DOTS = 100


def toml_value(value: Any) -> str:
    """One value (bool, number, string, or a list of these) as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, str):
        # JSON's string escapes are a subset of TOML's.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a TOML file. Raises `ConfigError` that names the file."""
    try:
        # Windows' editors may begin a file with a byte order mark.
        with path.open(encoding="utf-8-sig") as file:
            # It may be a pipe that never ends.
            text = file.read(_MOST_CHARACTERS + 1)
        strange = _strange(text)
        found = {} if strange else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    # What is wrong with numbers of many digits and with many brackets, Python says its own way.
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML ({one_line(error)})") from None
    if strange:
        raise ConfigError(f"{path}: {strange}: these are no settings")
    if not _is_small(found):
        raise ConfigError(f"{path}: not valid TOML (a whole number of more than 64 bits)")
    return found


def _strange(text: str) -> str:
    """What would keep the parser busy: it takes the square of a name's dots as its time."""
    if len(text) > _MOST_CHARACTERS:
        return f"has more than {_MOST_CHARACTERS} characters"
    for number, line in enumerate(text.split("\n"), start=1):
        if line.count(".") > _MOST_DOTS:
            return f"line {number} has more than {_MOST_DOTS} dots"
    return ""


def _is_small(value: Any) -> bool:
    """Whether all whole numbers in it are of 64 bits, as TOML has them."""
    if isinstance(value, (dict, list)):
        return all(map(_is_small, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int) or -TOO_LARGE <= value < TOO_LARGE
