"""Settings in a TOML file: writing a value, and reading a file."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from xpnet.errors import ConfigError, one_line

INTEGER_LIMIT = 2**63
"""The smallest whole number that TOML cannot hold."""

_MOST_CHARACTERS = 2**17
_MOST_DOTS = 100


def toml_value(value: Any) -> str:
    """One value (bool, number, string, or a list of these) in TOML."""
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
        # Editors on Windows may write a byte order mark.
        with path.open(encoding="utf-8-sig") as file:
            # A limit, since the file may be a pipe that never ends.
            text = file.read(_MOST_CHARACTERS + 1)
        error_text = _size_error(text)
        found = {} if error_text else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    # ValueError for numbers of many digits, RecursionError for many brackets.
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML ({one_line(error)})") from None
    if error_text:
        raise ConfigError(f"{path}: {error_text}: these are not settings")
    if not _fits_64_bits(found):
        raise ConfigError(f"{path}: not valid TOML (a whole number of more than 64 bits)")
    return found


def _size_error(text: str) -> str:
    """Why the text is refused, or "": the time of the parser grows with the square of the dots."""
    if len(text) > _MOST_CHARACTERS:
        return f"has more than {_MOST_CHARACTERS} characters"
    for number, line in enumerate(text.split("\n"), start=1):
        if line.count(".") > _MOST_DOTS:
            return f"line {number} has more than {_MOST_DOTS} dots"
    return ""


def _fits_64_bits(value: Any) -> bool:
    """Whether all integers in `value` have at most 64 bits, as in TOML."""
    if isinstance(value, (dict, list)):
        return all(map(_fits_64_bits, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int) or -INTEGER_LIMIT <= value < INTEGER_LIMIT
