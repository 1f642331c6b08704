"""`python tests/fuzz [READER...] [--inputs N] [--log]`: each reader against hostile files.

Atheris (libFuzzer for Python) mutates small valid files, `readers.py`, guided by the branches
that they reach. A reader passes when all of N inputs were read or refused with one `XpnetError`,
none took a second, and the process never held more than 512 MB. `--log` writes `tests/FUZZ.md`, of
readers that are named the rows of these alone.
An input that does not pass is kept in `tests/fuzz/found/`; `--again FILE` tries it alone.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LOG = HERE.parent / "FUZZ.md"
FOUND = HERE / "found"
MEGABYTES = 512
AT_ONCE = 50_000
"""Inputs of one process: the fuzzer itself holds more the longer it runs, and the peak is ours."""
LARGEST = 4096
"""Bytes of an input."""

sys.path.insert(0, str(HERE.parents[1]))
import readers  # noqa: E402 (from a checkout, with nothing installed)


def main() -> int:
    """0 when every reader passed."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz")
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(readers.READERS))
    parser.add_argument("--inputs", type=int, default=20_000, help="for each (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", action="store_true", help="write tests/FUZZ.md")
    parser.add_argument("--again", type=Path, help="one file, for the one READER that is named")
    arguments = parser.parse_args()
    names = arguments.readers or list(readers.READERS)
    unknown = set(names) - set(readers.READERS)
    if unknown:
        parser.error(f"no such reader: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(dir=_in_memory()) as scratch:
        if arguments.again:
            taken = readers.check(names[0], arguments.again.read_bytes(), Path(scratch))
            print("read" if taken else "refused, as it should be")
            return 0
        results = {}
        for name in names:
            results[name] = fuzz(name, arguments.inputs, arguments.seed, Path(scratch))
            print(f"{name:<26}{_line(results[name])}", flush=True)
    if arguments.log:
        rows = {name: f"| {name} | {_row(result)} |" for name, result in results.items()}
        before = LOG.read_text(encoding="utf-8") if arguments.readers else ""
        LOG.write_text(report(runs(before, rows, arguments.seed)), encoding="utf-8")
    return int(any(result is None for result in results.values()))


def fuzz(name: str, inputs: int, seed: int, scratch: Path) -> dict[str, Any] | None:
    """The figures of `inputs` inputs to one reader, None where one did not pass."""
    reader = readers.READERS[name]
    folder, figures = scratch / "files", scratch / "figures.json"
    corpus, words = scratch / "corpus", scratch / "words"
    for needed in (folder, corpus, FOUND):
        needed.mkdir(exist_ok=True)
    for old in [*corpus.iterdir(), figures]:
        old.unlink(missing_ok=True)
    for number, content in enumerate(reader.seeds):
        (corpus / str(number)).write_bytes(content)
    tokens = ("".join(f"\\x{byte:02x}" for byte in word) for word in reader.words)
    words.write_text("".join(f'"{token}"\n' for token in tokens))
    parts = []
    for done in range(0, inputs, AT_ONCE):
        figures.unlink(missing_ok=True)
        options = [
            f"-seed={seed + done}",
            f"-max_len={LARGEST}",
            f"-rss_limit_mb={MEGABYTES}",
            "-timeout=10",
            *([f"-dict={words}"] if reader.words else []),
            f"-artifact_prefix={FOUND}/{name.replace(', ', '-')}-",
            "-verbosity=0",
            str(corpus),
        ]
        count = str(min(AT_ONCE, inputs - done))
        ended = subprocess.run(
            [sys.executable, HERE / "guided.py", name, count, figures, folder, *options],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode or not figures.exists():
            # Python's traceback is in the one, libFuzzer's words are in the other.
            said = ended.stdout.splitlines()[-30:] + ended.stderr.splitlines()[-10:]
            print("\n".join(said), file=sys.stderr)
            return None
        parts.append(json.loads(figures.read_text()))
    found = {key: sum(part[key] for part in parts) for key in ("inputs", "taken", "seconds")}
    found |= {key: max(part[key] for part in parts) for key in ("slowest", "peak")}
    return found if found["peak"] <= MEGABYTES * 2**20 else None


def runs(before: str, rows: dict[str, str], seed: int) -> dict[str, dict[str, str]]:
    """What a run was made with, and its rows by reader: those of the log `before`, and `rows`."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("atheris", "numpy", "pandas", "pillow", "safetensors", "pydantic")
    )
    found: dict[str, dict[str, str]] = {}
    for heading, *lines in (part.splitlines() for part in before.split("\n## ")[1:]):
        kept = {line.split(" | ")[0].removeprefix("| "): line for line in lines[3:]}
        found[heading] = {name: line for name, line in kept.items() if name not in rows}
    here = found.setdefault(f"Seed {seed}: Python {platform.python_version()}, {versions}", {})
    here.update(rows)
    return found


def report(made: dict[str, dict[str, str]]) -> str:
    """The log, as Markdown: of every run the rows, in the order of `READERS`."""
    tables = [
        f"\n## {heading}\n\n"
        "| reader | inputs | read | refused | other answers | seconds | slowest, s | peak, MB |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|\n"
        + "".join(f"{rows[name]}\n" for name in readers.READERS if name in rows)
        for heading, rows in made.items()
        if rows
    ]
    return (
        "# Readers against hostile files\n\n"
        "Written by `python tests/fuzz --log` (`nox -s fuzz`). What counts as an answer is in "
        "[fuzz/readers.py](fuzz/readers.py): the file is read, or refused with one `XpnetError` "
        f"of one line that names it. Inputs are up to {LARGEST:,} bytes, begun from small valid "
        "files; seconds are the run's, of one process on a machine that others shared; the "
        "slowest input is in seconds of processor time, its limit 1; peak memory is that of a "
        f"process (one for {AT_ONCE:,} inputs) with all that it imported, its limit {MEGABYTES} "
        "MB. Each table is what one run tried, with the versions it had.\n" + "".join(tables)
    )


def _row(result: dict[str, Any] | None) -> str:
    if result is None:
        return "| | | **1 or more** | | | "
    refused = result["inputs"] - result["taken"]
    return (
        f"{result['inputs']:,} | {result['taken']:,} | {refused:,} | 0 | {result['seconds']:.0f} | "
        f"{result['slowest']:.3f} | {result['peak'] / 2**20:.0f}"
    )


def _line(result: dict[str, Any] | None) -> str:
    if result is None:
        return f"DID NOT PASS: see {FOUND}"
    return (
        f"{result['inputs']:>9,} inputs, {result['taken']:>9,} read, {result['seconds']:6.1f} s, "
        f"slowest {result['slowest']:.3f} s, peak {result['peak'] / 2**20:.0f} MB"
    )


def _in_memory() -> str | None:
    """A folder in memory, if the system has one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


if __name__ == "__main__":
    raise SystemExit(main())
