"""The page `tests/MUTANTS.md`: one row and one section per file; a run replaces those it made."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Protocol

TABLE = Path(__file__).resolve().parents[1] / "MUTANTS.md"
SIDES = ("NumPy", "double")

HEAD = """\
# Mutants

Written by `python tests/support/mutants.py`, whose first lines say what counts as mathematics and
what is done to it. One row is one statement: which test first notices its deletion, on NumPy and on
the double, and how many of its other mutants are noticed. The part of a file is from the last run
that tried it.

| file | statements | mutants | noticed | survive |
|---|---|---|---|---|
"""


class Mutant(Protocol):
    """What the page says of a mutant; `sides` are those that can notice it."""

    file: str
    line: int
    statement: str
    change: str
    sides: tuple[str, ...]


Found = list[tuple[Mutant, dict[str, str]]]
"""Mutants, each with the test that noticed it, by side."""


def cell(text: str, length: int) -> str:
    text = " ".join(text.split())
    return (text if len(text) <= length else text[: length - 1] + "…").replace("|", "\\|")


def row(found: Found) -> str:
    """The row of one file in the first table."""
    statements = len({(mutant.line, mutant.statement) for mutant, _ in found})
    kept = sum(len(caught) < len(mutant.sides) for mutant, caught in found)
    counts = statements, len(found), len(found) - kept, kept
    return f"| {found[0][0].file} | {' | '.join(map(str, counts))} |"


def section(found: Found) -> str:
    """What the page says of one file: its survivors, and a row for each statement."""
    lines = [f"## {found[0][0].file}", ""]
    for mutant, caught in found:
        if missing := [side for side in mutant.sides if side not in caught]:
            lines += [f"Survives on {' and '.join(missing)}: `{mutant}`", ""]
    lines += [
        "| line | statement | mutant | NumPy | double | others |",
        "|---|---|---|---|---|---|",
    ]
    for _, same in groupby(found, lambda pair: (pair[0].line, pair[0].statement)):
        (first, caught), *others = same
        good = sum(len(c) == len(m.sides) for m, c in others)
        cells = [f"`{cell(first.statement, 76)}`", cell(first.change, 76)]
        for side in SIDES:
            otherwise = "**SURVIVES**" if side in first.sides else "cannot tell"
            cells.append(cell(caught.get(side, otherwise).removeprefix("tests/"), 110))
        if cells[-1] == cells[-2].replace("numpy", "double"):
            cells[-1] = "the same"
        lines.append(f"| {first.line} | {' | '.join(cells)} | {good} of {len(others)} |")
    return "\n".join(lines) + "\n"


def rows_and_sections(page: str) -> dict[str, tuple[str, str]]:
    """By file its row and its section, where the page has both, with the columns of `HEAD`."""
    pattern = r"^\| (\S+\.py)(?: \| \d+){4} \|$"
    rows = {m[1]: m[0] for m in re.finditer(pattern, page, re.MULTILINE)}
    sections = {text.split()[1]: text for text in re.split(r"\n(?=## )", page)[1:]}
    return {file: (line, sections[file]) for file, line in rows.items() if file in sections}


def page(known: dict[str, tuple[str, str]], files: Iterable[str]) -> str:
    """The page of what is known of these files, in this order."""
    shown = [known[file] for file in files if file in known]
    counts = [[int(count) for count in re.findall(r"(?<=\| )\d+", line)] for line, _ in shown]
    total = " | ".join(str(sum(column)) for column in zip(*counts, strict=True))
    lines = [line for line, _ in shown] + [f"| all | {total} |"]
    return "\n".join([HEAD + "\n".join(lines) + "\n", *(text for _, text in shown)])


def merge(found: Found, files: Iterable[str]) -> None:
    """Replace what the page says of the one file of `found`."""
    known = rows_and_sections(TABLE.read_text(encoding="utf-8"))
    known[found[0][0].file] = row(found), section(found)
    TABLE.write_text(page(known, files), encoding="utf-8")
