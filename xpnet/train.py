"""`python -m xpnet.train`: the command, as `xpnet.cli.train` has it."""

from __future__ import annotations

from xpnet.cli.train import main as main

if __name__ == "__main__":
    raise SystemExit(main())
