"""`python -m xpnet.compare RUN RUN...`: compares runs in a table and in curves."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from xpnet._files import write_atomically
from xpnet.cli import console
from xpnet.cli.parser import Parser
from xpnet.report.compare import names_of, page, remarks, rows, text_table
from xpnet.runs.run_reader import read_run


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and write the page; 0, or 2 with the reason."""
    return console.run(lambda: _compare(argv), "python -m xpnet.compare")


def _compare(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    runs = [read_run(folder) for folder in arguments.runs]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    table = rows(runs)
    console.say(*text_table(names_of(runs), table, width).split("\n"), *remarks(runs))
    write_atomically(arguments.html, page(runs))
    if any(row.best for row in table):
        console.say("", "* the best value of its row")
    console.say("", f"curves: {arguments.html}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "python -m xpnet.compare",
        description="Compare runs: print the settings in which they differ, and their metrics.",
        epilog="The page has the table and all curves. It is one file that any browser opens. "
        "Example: python -m xpnet.compare runs/digits-001 runs/digits-002.",
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=Path,
        help="the folder of a run, such as runs/digits-001",
    )
    parser.add_argument(
        "--html",
        metavar="FILE",
        type=Path,
        default=Path("compare.html"),
        help="the web page to write (default: %(default)s)",
    )
    return parser
