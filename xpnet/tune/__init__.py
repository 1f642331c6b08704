"""The search for good settings: `python -m xpnet.tune SPACE.toml`; start at `__main__.py`."""
