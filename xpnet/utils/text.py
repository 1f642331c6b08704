"""Numbers as text."""

from __future__ import annotations


def percent(share: float | None, digits: int = 2) -> str:
    """`0.9375` as `93.75 %`, and None (not defined) as `–`."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"
