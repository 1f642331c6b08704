"""`python -m xpnet.compare`: the command, as `xpnet.cli.compare` has it."""

from __future__ import annotations

from xpnet.cli.compare import main as main

if __name__ == "__main__":
    raise SystemExit(main())
