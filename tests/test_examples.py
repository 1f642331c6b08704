"""The examples run as they stand; their own assertions are the test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.parametrize("name", ["from_python.py"])
def test_example(name: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-W", "error", str(EXAMPLES / name)]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout
