"""`python -m xpnet.export`: runs the command in `xpnet.cli.export`."""

from __future__ import annotations

from xpnet.cli.export import main as main

if __name__ == "__main__":
    raise SystemExit(main())
