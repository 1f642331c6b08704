"""Numbers are taken as NumPy's or as Python's own, kept as Python's, and all else is refused."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from xpnet.errors import ConfigError
from xpnet.optimizers import SGD, Optimizer
from xpnet.utils.arguments import height_and_width, instance, real, whole


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), np.int16(3)])
def test_a_whole_number_of_any_type_becomes_pythons(value: Any) -> None:
    assert whole("epochs", value) == 3
    assert type(whole("epochs", value)) is int


@pytest.mark.parametrize(
    "value", [0, -1, 2.0, np.float32(2), "2", None, True, np.True_, [2], np.array([2]), int]
)
def test_what_is_no_count_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^epochs must be a whole number above 0, found "):
        whole("epochs", value)


def test_the_least_is_said() -> None:
    assert whole("samples", 0, least=0) == 0
    with pytest.raises(ConfigError, match=r"a whole number of 0 or more or None, found -1$"):
        whole("samples", -1, least=0, or_else=" or None")


@pytest.mark.parametrize(
    "value", [0.5, np.float32(0.5), np.float64(0.5), np.float16(0.5), np.array(0.5), Fraction(1, 2)]
)
def test_a_number_of_any_type_becomes_pythons(value: Any) -> None:
    assert real("rate", value, 0, 1) == 0.5
    assert type(real("rate", value, 0, 1)) is float


OUT_OF_RANGE = [math.nan, math.inf, -0.1, 1, 10**400]


@pytest.mark.parametrize(
    "value",
    ["0.5", None, True, np.True_, [0.5], np.array([0.5]), 1j, Decimal("0.5"), float, *OUT_OF_RANGE],
)
def test_what_is_no_number_in_range_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^rate must be a number in \[0, 1\), found "):
        real("rate", value, 0, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"low": 0}, "of 0 or more"),
        ({"low": 0, "low_is_allowed": False}, "above 0"),
        ({"low": 0, "high": 1, "low_is_allowed": False}, r"in \(0, 1\)"),
        ({"low": -math.inf}, "that is finite"),
    ],
)
def test_the_range_is_said(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"^rate must be a number {words}, found nan$"):
        real("rate", math.nan, **options)


def test_a_class_in_the_place_of_an_object_is_named() -> None:
    made = SGD()
    assert instance("optimizer", made, Optimizer, "an Optimizer") is made
    with pytest.raises(ConfigError, match=r"must be an Optimizer, found the class SGD: .*SGD\("):
        instance("optimizer", SGD, Optimizer, "an Optimizer")
    with pytest.raises(ConfigError, match=r"must be an Optimizer, found 3$"):
        instance("optimizer", 3, Optimizer, "an Optimizer")


@pytest.mark.parametrize(
    "value", [(28, 28, True), (True, 28), (28,), (28, 28, 1), (28.0, 28), "28", 28, None, (0, 28)]
)
def test_what_is_no_shape_of_an_image_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^image_shape must be \(height, width\), whole numbers"):
        height_and_width("image_shape", value)
    assert height_and_width("image_shape", [np.int64(28), 27]) == (28, 27)
