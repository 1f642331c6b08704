"""Every error that xpnet raises on purpose.

Each message is one line that names what was given, what was found and what to do.
The commands print that line and leave with `exit_code`; a library user catches `XpnetError`.
"""

from __future__ import annotations


class XpnetError(Exception):
    """Base of all errors that xpnet raises on purpose."""

    exit_code = 2


class BackendUnavailable(XpnetError):
    """The device that was asked for cannot be used on this machine."""


class DeviceMismatch(XpnetError):
    """Arrays of two backends met in one operation."""


class ShapeError(XpnetError, ValueError):
    """An array or a layer does not fit the one beside it."""


class DataError(XpnetError, ValueError):
    """A file of data is missing, damaged or not what it should be."""


class ConfigError(XpnetError, ValueError):
    """A setting is unknown, out of its range, or contradicts another."""


class CheckpointError(XpnetError, ValueError):
    """A saved model cannot be read back, or cannot be written."""


class DivergenceError(XpnetError, ArithmeticError):
    """Training left the finite numbers."""

    exit_code = 3
