"""`python -m xpnet.predict`: the command, as `xpnet.cli.predict` has it."""

from __future__ import annotations

from xpnet.cli.predict import main as main

if __name__ == "__main__":
    raise SystemExit(main())
