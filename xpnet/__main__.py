"""`python -m xpnet`: lists the commands, or runs one of them: `python -m xpnet train`."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from xpnet._version import __version__
from xpnet.cli import console
from xpnet.errors import ConfigError, short_repr

COMMANDS = {
    "train": "train a classifier, test it, and write its report",
    "predict": "print the most probable classes of images or samples",
    "compare": "compare runs in a table and in curves",
    "tune": "search for the settings with the best validation accuracy",
    "export": "write a network as a web page to draw on, or as an ONNX file",
}
"""The commands and their descriptions."""


def main(argv: Sequence[str] | None = None) -> int:
    """List the commands, or run the named one; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        module = "tune.__main__" if words[0] == "tune" else words[0]
        code: int = importlib.import_module(f"xpnet.{module}").main(words[1:])
        return code
    return console.run(lambda: _list_commands(words))


def _list_commands(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        console.say("usage: python -m xpnet.COMMAND [--help]", "")
        wide = max(map(len, COMMANDS)) + len("python -m xpnet.")
        for name, about in COMMANDS.items():
            console.say(f"  {f'python -m xpnet.{name}':<{wide}}  {about}")
        console.say("", f"This is xpnet {__version__}; help(xpnet) in Python lists its names.")
        return 0
    if words[0] in ("-V", "--version"):
        console.say(f"xpnet {__version__}")
        return 0
    near = difflib.get_close_matches(words[0], COMMANDS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ConfigError(
        f"{short_repr(words[0])} is not a command{hint}: there are {', '.join(COMMANDS)}; see "
        f"python -m xpnet --help"
    )


if __name__ == "__main__":
    raise SystemExit(main())
