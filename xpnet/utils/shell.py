"""Command lines: the flags of settings, and words quoted for a shell."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path


def flag_of(name: str) -> str:
    """`--learning-rate` of `learning_rate`."""
    return f"--{name.replace('_', '-')}"


def shell_command(*words: str | Path) -> str:
    """A command line of words and paths (`Path`), quoted for a shell.

    A path that begins with `-` is written `./-...`, as it would be a flag. A word that is not
    printable is written for bash and zsh, as `$''` with escapes.
    """
    return " ".join(_word(str(word), isinstance(word, Path)) for word in words)


def _word(text: str, is_path: bool) -> str:
    if is_path and text.startswith("-"):
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    escaped = re.sub(r"(['\\\\])", r"\\\1", text)
    return f"$'{''.join(c if c.isprintable() else _bytes(c) for c in escaped)}'"


def _bytes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
