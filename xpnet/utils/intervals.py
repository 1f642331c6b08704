"""Intervals as settings give them: `"5 epochs"`, `"500 iterations"`, `"30 seconds"`."""

from __future__ import annotations

from xpnet.errors import ConfigError, short_repr


def parse_checkpoint_every(value: int | str, name: str = "checkpoint_every") -> tuple[float, bool]:
    """`(count, True if it counts seconds)` of `5`, `"5 epochs"` or `"30 seconds"`.

    Raises `ConfigError`, which calls it `name`, for any other value.
    """
    number, _, unit = str(value).strip().partition(" ")
    unit = unit.strip()
    if unit in ("", "epoch", "epochs") and number.isdecimal() and int(number) > 0:
        return int(number), False
    is_number = number.replace(".", "", 1).isdecimal()
    if unit in ("second", "seconds") and is_number and float(number) > 0:
        return float(number), True
    raise ConfigError(
        f"{name} must be a number of epochs or of seconds, such as 1, '5 epochs' or "
        f"'30 seconds', found {short_repr(value)}"
    )


def parse_log_every(value: int | str) -> tuple[int, bool]:
    """`(count, True if it counts iterations)` of `5`, `"5 epochs"` or `"500 iterations"`.

    Raises `ConfigError` for any other value.
    """
    number, _, unit = str(value).strip().partition(" ")
    units = {"": False, "epoch": False, "epochs": False, "iteration": True, "iterations": True}
    if number.isdecimal() and int(number) > 0 and unit.strip() in units:
        return int(number), units[unit.strip()]
    raise ConfigError(
        f"log_every must be a number of epochs or of iterations, such as 10, '10 epochs' or "
        f"'500 iterations', found {short_repr(value)}"
    )
