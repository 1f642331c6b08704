"""The search: `python -m xpnet.tune SPACE.toml`, in `__main__.py`, tells its story."""
