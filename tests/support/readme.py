"""README.md and docs/ taken apart: blocks, commands in the text, what is shown as printed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
FENCES = ("```bash", "```python", "```text", "```yaml", "```{toctree}")

# Blocks that no test runs as they are: a line of each, and why, or where else it runs.
NOT_RUN = {
    "pip install . && python -m xpnet.train": "an installation: the first block of README.md",
    'pip install ".[cuda13]"': "needs an NVIDIA GPU",
    "python -m pytest tests --device cuda": "needs an NVIDIA GPU",
    'Swish(), 10, backend="cuda")': "needs an NVIDIA GPU",
    '10, backend="cuda")  # or': "needs an NVIDIA GPU",
    "python -m xpnet.train --config examples/lenet.toml": "several ranks: tests/distributed",
    "mpiexec -n 4 python program.py": "several ranks: tests/distributed",
    "mpiexec -f hosts": "several machines: tests/distributed/test_hosts.py",
    "xpnet.tune space.toml --shared": "several machines: tests/tune",
    "#SBATCH --nodes=4": "needs a cluster",
}

POINTS, LOSS = 0.5, 0.01
"""How far percentages and losses move with the rounding of another processor's sums."""

_NUMBER = re.compile(r"(\d[\d,]*(?:\.\d+)?)( %| s\b)?")


@dataclass(frozen=True)
class Block:
    """What stands between two fences: `language` is one of `FENCES`; `line` in the file."""

    language: str
    text: str
    line: int

    @property
    def title(self) -> str:
        return f"line {self.line}: {self.text.splitlines()[0]}"


def why_not_run(block: Block) -> str:
    """The reason why no test runs a block; empty if one does."""
    return next((why for line, why in NOT_RUN.items() if line in block.text), "")


def blocks(page: str) -> list[Block]:
    """All fenced blocks, in order; a `ValueError` for what could be missed by looking for them."""
    found: list[Block] = []
    begin, lines = None, page.splitlines()
    for number, line in enumerate(lines, 1):
        if not line.lstrip().startswith(("```", "~~~")):
            continue
        if begin is not None and line == "```":
            text = "".join(f"{text}\n" for text in lines[begin : number - 1])
            found.append(Block(lines[begin - 1][3:], text, begin + 1))
            begin = None
        elif begin is None and line in FENCES:
            begin = number
        else:
            raise ValueError(f"line {number}: {line} is none of {', '.join(FENCES)}")
    if begin is not None:
        raise ValueError(f"line {begin}: the block does not end")
    return found


def commands_in_text(page: str) -> list[str]:
    """The commands that stand as code in a sentence or a table."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", text)
    return [span for span in spans if re.match(r"(python3?|pip|nox|bash|pre-commit) ", span)]


def differences(shown: str, printed: str) -> Iterator[str]:
    """Where `shown` is not what was printed: `...` stands for any lines, seconds for any number.

    Whole numbers are equal; percentages and other fractions may differ by `POINTS` and `LOSS`.
    """
    lines, place = printed.splitlines(), 0
    for part in re.split(r"^\.\.\.$\n", shown, flags=re.MULTILINE):
        wanted = part.rstrip("\n").splitlines()
        starts = range(place, len(lines) - len(wanted) + 1)
        ends = [n + len(wanted) for n in starts if all(map(_agrees, wanted, lines[n:]))]
        if not ends:
            yield f"was not printed:\n{part}"
        else:
            place = ends[0]


def _agrees(shown: str, printed: str) -> bool:
    if _words(shown) != _words(printed):
        return False
    for (one, unit), (other, _) in zip(
        _NUMBER.findall(shown), _NUMBER.findall(printed), strict=True
    ):
        allowed = {" %": POINTS, " s": float("inf")}.get(unit, LOSS if "." in one else 0)
        if abs(float(one.replace(",", "")) - float(other.replace(",", ""))) > allowed + 1e-9:
            return False
    return True


def _words(line: str) -> list[str]:
    return _NUMBER.sub(r"#\2", line).split()


def in_order(found: list[Block]) -> bool:
    """Whether every command stands before every program, which all run in one interpreter."""
    order = [block.language for block in found if block.language != "text"]
    return all((one, other) != ("python", "bash") for one, other in pairwise(order))
