"""`python -m xpnet.compare`: runs the command in `xpnet.cli.compare`."""

from __future__ import annotations

from xpnet.cli.compare import main as main

if __name__ == "__main__":
    raise SystemExit(main())
