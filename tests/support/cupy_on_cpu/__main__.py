"""`python tests/support/cupy_on_cpu [--build-only] [COMMAND ...]`, on the pretended device.

Builds it if needed, and runs COMMAND, for example `python -m pytest tests --device cuda`, with the
pretended device active in it and in every Python process that it starts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
USAGE = "usage: python tests/support/cupy_on_cpu [--build-only] [COMMAND ...]"


def main(arguments: list[str]) -> int:
    # The folder itself is first in sys.path, but its package is needed.
    sys.path[0] = str(HERE.parent)
    from cupy_on_cpu.build import built
    from cupy_on_cpu.toolchain import BuildError

    build_only = arguments[:1] == ["--build-only"]
    command = arguments[1:] if build_only else arguments
    if build_only == bool(command) or (command and command[0].startswith("-")):
        print(USAGE, file=sys.stderr)
        return 2
    try:
        folder = built()
    except BuildError as error:
        print(f"pretended device: {error}", file=sys.stderr)
        return 2
    print(f"pretended device: built in {folder}", file=sys.stderr, flush=True)
    if build_only:
        return 0
    environment = os.environ | {"PRETENDED_DEVICE_BUILD": str(folder)}
    paths = [str(HERE / "site"), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        print(f"pretended device: {command[0]} cannot be run: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
