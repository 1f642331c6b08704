"""What `mypy --strict` says of a user's programs, from outside: `nox -s types` runs it.

The programs are the README's first example in Python and `examples/from_python.py`. mypy runs
in a folder of its own without our settings, so it finds xpnet as it is installed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WRONG = """
import xpnet as xn

xn.Sequential(784, 128.0, "relu", 10)
"""


def mypy(program: str, folder: Path) -> tuple[int, str]:
    """mypy's exit code and what it prints, for a program in `folder`."""
    (folder / "program.py").write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "program.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def main() -> None:
    readme = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"## From Python\n\n```python\n(.*?)```", readme, re.DOTALL)
    programs = {
        "README.md": example,
        "examples/from_python.py": (ROOT / "examples" / "from_python.py").read_text(),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, program in programs.items():
            code, said = mypy(program, Path(folder))
            print(f"{name}: {said}", end="")
            if code:
                raise SystemExit(code)
        # Types that say nothing would let anything through.
        code, said = mypy(WRONG, Path(folder))
        if "arg-type" not in said:
            raise SystemExit(f"a float for a number of features was let through: {said}")


if __name__ == "__main__":
    main()
