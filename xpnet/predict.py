"""`python -m xpnet.predict`: runs the command in `xpnet.cli.predict`."""

from __future__ import annotations

from xpnet.cli.predict import main as main

if __name__ == "__main__":
    raise SystemExit(main())
