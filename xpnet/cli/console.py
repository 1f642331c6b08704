"""What all commands share: their flags, what they print, how they end when something goes wrong."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn, TextIO

import numpy

from xpnet.backend.device_errors import explained
from xpnet.errors import ConfigError, XpnetError, plain, truncate

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
NO_READER = 141  # 128 + SIGPIPE


def run(action: Callable[[], int]) -> int:
    """The exit code of `action()`, or of the way in which it failed.

    An `XpnetError` is one line on stderr and its own code (2, or 3 for divergence); want of
    memory, or what else the system refuses, is one line and 2; Ctrl-C is 130; a closed pipe
    (`| head`) is 141 without a word.
    What the terminal's encoding cannot show is printed as an escape. NumPy's warnings of numbers
    that are too large are silent: what follows from them is looked for where it matters.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with numpy.errstate(all="ignore"):
            return action()
    except XpnetError as error:
        return print_error(error)
    except MemoryError as error:
        return print_error(
            XpnetError(
                f"not enough memory ({error}): use smaller layers, a smaller batch_size or less "
                f"data"
            )
        )
    except KeyboardInterrupt as error:
        say(f"xpnet: {str(error) or 'interrupted'}", file=sys.stderr)
        return getattr(error, "exit_code", INTERRUPTED)
    except BrokenPipeError:
        _close_stdout()
        return NO_READER
    except UnicodeEncodeError as error:
        return print_error(
            XpnetError(f"{truncate(error.object, 200)}: is no text in UTF-8: rename it")
        )
    except OSError as error:
        _close_stdout()
        named = f"{error.filename}: " if error.filename else ""
        return print_error(XpnetError(f"{named}{error.strerror or error}"))
    except Exception as error:
        if (plain := explained(error)) is None:
            raise
        return print_error(plain)


def _close_stdout() -> None:
    """Python flushes once more on its way out, and what failed would fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_error(error: XpnetError) -> int:
    """Print the error's one line; returns its exit code."""
    say(f"xpnet: error: {error}", file=sys.stderr)
    return error.exit_code


def say(*lines: object, file: TextIO | None = None) -> None:
    """Print each of `lines` as one line, in which nothing but text reaches the terminal.

    All that a command prints goes through here: see `xpnet.errors.plain`.
    """
    print("\n".join(map(plain, lines)), file=file, flush=True)


def flag_of(name: str) -> str:
    """`--learning-rate` of `learning_rate`."""
    return f"--{name.replace('_', '-')}"


def typed(*words: str | Path) -> str:
    """A command line to be typed, of words and of paths (`Path`), whatever is in them.

    A path that begins with `-` is written `./-...`, so that no command takes it for a flag. A word
    that cannot be printed is written as bash and zsh read it, within `$''` and with escapes.
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


class Parser(argparse.ArgumentParser):
    """A parser of flags whose every complaint is a `ConfigError` of one line.

    An unknown flag is told the nearest one, of this parser's and of `also`. The value of a flag
    may begin with one `-`.
    """

    def __init__(self, prog: str, *, also: Iterable[str] = (), **options: object) -> None:
        super().__init__(prog=prog, allow_abbrev=False, **options)  # type: ignore[arg-type]
        self.also = tuple(also)
        self._words: list[str] = []

    def flags(self) -> list[str]:
        """All flags of this parser."""
        return list(self._option_string_actions)

    def parse_known_args(  # type: ignore[override]
        self,
        args: Iterable[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        """As in `argparse`, but for `--run -x`, which is `--run=-x`."""
        words: list[str] = []
        for word in sys.argv[1:] if args is None else args:
            if words and self._is_a_value(words[-1], word):
                words[-1] += f"={word}"
            else:
                words.append(word)
        self._words = words
        return super().parse_known_args(words, namespace)

    def _is_a_value(self, flag: str, word: str) -> bool:
        action = self._option_string_actions.get(flag)
        takes_one = action is not None and action.nargs is None
        dashed = len(word) > 1 and word[0] == "-" and word[1] != "-"
        return takes_one and dashed and word not in self._option_string_actions

    def error(self, message: str) -> NoReturn:
        """Raise the `ConfigError`."""
        known = [*self.flags(), *self.also]
        flags = [word.partition("=")[0] for word in self._words if word.startswith("-")]
        unknown = [flag for flag in flags if flag not in known]
        nearest = [near for flag in unknown for near in difflib.get_close_matches(flag, known, n=1)]
        hint = f" (did you mean {', '.join(nearest)}?)" if nearest else ""
        if "expected one argument" in message and unknown:
            hint = " (a value that begins with -- is written --flag=--value)"
        elif unknown and not nearest and not unknown[0].startswith("--"):
            hint = " (a path that begins with - is written ./-...)"
        raise ConfigError(f"{message}{hint}: see {self.prog} --help")


def count(text: str) -> int:
    """The whole number above 0 that a flag's text is; for `type=` of a flag."""
    if not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, found {text!r}")
    return int(text)
