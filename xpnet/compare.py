"""`python -m xpnet.compare`: the command, as `xpnet.report.compare` has it."""

from __future__ import annotations

from xpnet.report.compare import main as main

if __name__ == "__main__":
    raise SystemExit(main())
