"""The interface of a training history that the figures use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class History(Protocol):
    """The part of `xpnet.History` that the figures use (a protocol)."""

    @property
    def records(self) -> Sequence[Any]:
        """Records with the fields `epoch` and `step`, oldest first."""

    def column(self, name: str) -> list[Any]:
        """One field of all records."""
