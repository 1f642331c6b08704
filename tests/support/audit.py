"""`python tests/support/audit.py`: are there known holes in what is installed beside xpnet?

Has pip-audit ask PyPI's advisories about every distribution of this environment, by its exact
version. Ends with 0 only if each was audited and none has a hole that `EXPLAINED` does not
explain; with 1 where a hole was found or a distribution was skipped; with 2, and saying so,
where nothing could be audited, as without a network: that is no clean bill.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

EXPLAINED: dict[str, str] = {}
"""Advisories that do not concern xpnet, by their identifier, each with the reason."""


def pins() -> list[str]:
    """`name==version` of every distribution here but xpnet itself, in order."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        # What is found first is what is imported. Advisories know 2.13.0+cpu as 2.13.0.
        name = _key(distribution.metadata["Name"])
        found.setdefault(name, distribution.version.partition("+")[0])
    return sorted(f"{name}=={version}" for name, version in found.items() if name != "xpnet")


def judge(report: str, asked: list[str]) -> tuple[int, list[str]]:
    """The exit code and the lines to print for pip-audit's JSON about the pins `asked`."""
    try:
        dependencies: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        dependencies = []
    audited = [entry for entry in dependencies if "skip_reason" not in entry]
    if not audited:
        reasons = [str(entry["skip_reason"]) for entry in dependencies[:1]]
        return 2, [*reasons, "nothing could be audited: this says nothing about the dependencies"]
    lines, code = [], 0
    for entry in dependencies:
        if "skip_reason" in entry:
            lines.append(f"{entry['name']}: skipped ({entry['skip_reason']})")
            code = 1
        for hole in entry.get("vulns", ()):
            names = {hole["id"], *hole.get("aliases", ())}
            reason = next((EXPLAINED[name] for name in sorted(names) if name in EXPLAINED), None)
            fixed = ", ".join(hole.get("fix_versions", ())) or "none yet"
            what = f"{entry['name']} {entry['version']}: {hole['id']}, fixed in {fixed}"
            lines.append(f"{what}: {reason or 'NOT EXPLAINED'}")
            code = code if reason else 1
    unanswered = {_key(pin.partition("==")[0]) for pin in asked}
    unanswered -= {_key(entry["name"]) for entry in dependencies}
    for name in sorted(unanswered):
        lines.append(f"{name}: not answered for")
        code = 1
    verdict = "FAILED" if code else "clean or explained"
    lines.append(f"{len(audited)} of {len(asked)} distributions audited: {verdict}")
    return code, lines


def _key(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return name.lower().replace("_", "-").replace(".", "-")


def main() -> int:
    """Ask, and print what was found."""
    asked = pins()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pins.txt"
        file.write_text("\n".join([*asked, ""]), encoding="utf-8")
        argv = [sys.executable, "-m", "pip_audit", "--requirement", str(file), "--no-deps"]
        argv += ["--disable-pip", "--format", "json", "--progress-spinner", "off"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    code, lines = judge(done.stdout, asked)
    if not done.stdout.strip():
        lines += done.stderr.splitlines()[-1:]
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
