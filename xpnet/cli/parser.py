"""The parser of command-line flags that all commands share."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable
from typing import NoReturn

from xpnet.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """A parser of flags that reports every mistake as a `ConfigError` of one line.

    For an unknown flag it suggests the most similar one of its own flags and of `also`. The value
    of a flag may begin with one `-`.
    """

    def __init__(self, prog: str, *, also: Iterable[str] = (), **options: object) -> None:
        super().__init__(prog=prog, allow_abbrev=False, **options)  # type: ignore[arg-type]
        self.also = tuple(also)
        self._words: list[str] = []

    def add_model(self) -> None:
        """Declare the positional argument `model`: a file, or the folder of a run."""
        self.add_argument(
            "model",
            metavar="MODEL",
            help="a .safetensors file that xpnet wrote, or the folder of a run",
        )

    def add_device(self) -> None:
        """Declare `--device`."""
        self.add_argument(
            "--device",
            default="cpu",
            help="the device that computes: cpu, cuda, cuda:N or auto (default: %(default)s)",
        )

    def flags(self) -> list[str]:
        """All flags of this parser."""
        return list(self._option_string_actions)

    def parse_known_args(  # type: ignore[override]
        self,
        args: Iterable[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        """As in `argparse`, but `--run -x` means `--run=-x`."""
        words: list[str] = []
        for word in sys.argv[1:] if args is None else args:
            if words and self._is_value_of(words[-1], word):
                words[-1] += f"={word}"
            else:
                words.append(word)
        self._words = words
        return super().parse_known_args(words, namespace)

    def _is_value_of(self, flag: str, word: str) -> bool:
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
    """The text of a flag as a whole number above 0; for `type=` of a flag."""
    if not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, found {text!r}")
    return int(text)
