"""`python -m xpnet.train`: runs the command in `xpnet.cli.train`."""

from __future__ import annotations

from xpnet.cli.train import main as main

if __name__ == "__main__":
    raise SystemExit(main())
