"""`python -m xpnet.export`: the command, as `xpnet.cli.export` has it."""

from __future__ import annotations

from xpnet.cli.export import main as main

if __name__ == "__main__":
    raise SystemExit(main())
