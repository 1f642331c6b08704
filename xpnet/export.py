"""`python -m xpnet.export`: the command, as `xpnet.web_demo.export` has it."""

from __future__ import annotations

from xpnet.web_demo.export import main as main

if __name__ == "__main__":
    raise SystemExit(main())
