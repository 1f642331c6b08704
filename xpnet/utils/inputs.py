"""Converts samples and targets given by users to arrays of numbers, and checks them.

Accepts NumPy arrays of any layout, nested lists, pandas DataFrames and Series, and arrays of other
libraries that share their memory (`backend.shared`). A value that is not a finite number is an
error that names its position: `x[3, 2]`, or `column 'age', row 3 of x`.

Arrays on a GPU are not checked, since looking for a NaN would synchronise with the device. Nor are
integers, which are always finite.
"""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Iterator
from typing import Any

import numpy

from xpnet.backend import Array, Backend, HostArray, array_module, shared
from xpnet.errors import DataError, DeviceMismatch, ShapeError, short_repr
from xpnet.utils.arguments import as_float
from xpnet.utils.channels import as_rows
from xpnet.utils.places import FramePlace, Place, named
from xpnet.utils.quiet import without_warnings
from xpnet.utils.sparse import SparseRows, is_sparse, rows_of

_FLOATS = (numpy.dtype("float32"), numpy.dtype("float64"))
_LARGEST = float(numpy.finfo("float32").max)
# Above 10,000 values OpenBLAS divides a product among threads, which wait for each other.
_FEW = 8192
_VALUES_AT_ONCE = 2**20
_NO_ARRAY = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, BufferError)
_NUMBERS = "give an array of numbers, a list of rows or a DataFrame"
_NO_SAMPLES_OF_TEXT = "turn text into numbers first, say one column a category: pandas.get_dummies"
_NO_LABELS_OF_TEXT = (
    "number the classes from 0: names, labels = numpy.unique(labels, return_inverse=True)"
)


def as_samples(
    x: Any,
    *,
    backend: Backend,
    features: int | None = None,
    name: str = "x",
    check: bool = True,
    dtype: Any = None,
    image: tuple[int, ...] | None = None,
) -> Array:
    """`x` as an array `(N, features)` of numbers, N above 0: a host array, or one of `backend`.

    `x`: rows of numbers, or images `(N, H, W)` or `(N, H, W, C)`, which become `(N, H·W)` or
    `(N, C·H·W)`. It keeps its dtype, except bools (uint8) and `Float64`, `Int64`, `boolean` of
    pandas (those of NumPy). Arrays that NumPy can read are not copied. `features`: the required
    number, None for any. `name`: of the argument, for messages. `check`: whether every value must
    be finite; arrays on a GPU are never checked. `dtype`: of the network, float32 or float64, whose
    range the values must not exceed. `image`: `(H, W, C)` where the network takes images. A sparse
    matrix of SciPy becomes `SparseRows`, on the host.

    Raises `ShapeError` for another shape, such as images `(N, C, H, W)`; `DataError`, with row
    and column, for what is not a finite number (text, dates, categories, complex or missing values,
    NaN, infinity, values beyond `dtype`), for masked or ragged arrays and for no samples at all;
    `DeviceMismatch` for an array on another device.
    """
    # Fast for a single row, as in a server.
    if is_plain(x, features) and (not check or (x.size <= _FEW and is_finite(x))):
        return x
    if is_sparse(x):
        return x if isinstance(x, SparseRows) else _sparse_rows(x, features, name, check, dtype)
    given, place = _as_array(x, backend, name, _NO_SAMPLES_OF_TEXT)
    array = as_rows(given, image, name)
    _require_samples(array, tuple(given.shape), features, name)
    if check:
        check_finite(given, place, dtype)
    return array


def _sparse_rows(x: Any, features: int | None, name: str, check: bool, dtype: Any) -> SparseRows:
    """`as_samples` of a sparse matrix; NaN and infinity are looked for among its entries."""
    rows = rows_of(x, name)
    _require_samples(rows, rows.shape, features, name)

    def place(where: tuple[int, ...]) -> str:
        return named(name)(rows.position(where[0]))

    rows.values = _numbers(rows.values, place, name, _NO_SAMPLES_OF_TEXT)
    if check:
        check_finite(rows.values, place, dtype)
    return rows


def is_plain(x: Any, features: int | None = None) -> bool:
    """Whether `x` is a NumPy array `(N, features)` of float32 or float64, N above 0."""
    return (
        type(x) is numpy.ndarray
        and x.ndim == 2
        and x.dtype in _FLOATS
        and x.size > 0
        and (features is None or x.shape[1] == features)
    )


def is_finite(block: HostArray) -> bool:
    """Whether one fast pass shows that every value is finite, in float32 too.

    The sum of squares is finite only if each value is, and below the largest float32 only if each
    value is within the range of float32.
    """
    return bool(numpy.vdot(block, block) <= _LARGEST)


def as_targets(
    y: Any,
    *,
    backend: Backend,
    name: str = "y",
    check: bool = True,
    dtype: Any = None,
    about_text: str = _NO_LABELS_OF_TEXT,
) -> Array:
    """`y` as an array `(N,)` or `(N, …)` of numbers, N above 0: labels, or any other targets.

    As `as_samples`; names of classes are an error, with the advice `about_text`.
    """
    array, place = _as_array(y, backend, name, about_text)
    if array.ndim == 0:
        raise ShapeError(f"{name} is a single number: give one target for each sample")
    if 0 in array.shape:
        raise DataError(f"{name} is empty, shape {array.shape}: give N targets, N above 0")
    if check:
        check_finite(array, place, dtype)
    return array


def check_finite(array: Array, place: Place | str, dtype: Any = None) -> None:
    """Raise `DataError` for the first value of a host `array` that is not finite, or too large.

    `place`: a function that names a value, or the name of the array. `dtype`: the float type that
    the values will have; None for that of the array. Arrays on a device are not checked.
    """
    if not isinstance(array, numpy.ndarray) or array.dtype.kind != "f":
        return
    own = float(numpy.finfo(array.dtype).max)
    largest = own if dtype is None else min(own, float(numpy.finfo(str(dtype)).max))
    rows_at_once = max(1, _VALUES_AT_ONCE // max(1, math.prod(array.shape[1:])))
    for start in range(0, len(array), rows_at_once):
        block = array[start : start + rows_at_once]
        # For a NaN, both minimum and maximum are NaN, and the comparisons are false.
        if block.min() >= -largest and block.max() <= largest:
            continue
        wrong = ~(numpy.abs(block) <= largest)
        first = tuple(int(i) for i in numpy.argwhere(wrong)[0])
        where = (first[0] + start, *first[1:])
        name = named(place) if isinstance(place, str) else place
        raise _not_finite(name(where), block[first].item(), largest)


def _not_finite(where: str, value: float, largest: float) -> DataError:
    if math.isnan(value):
        return DataError(f"{where} is NaN, a missing value: fill it in, or leave out the row")
    if math.isinf(value):
        return DataError(f"{where} is {value}: every value has to be finite")
    return DataError(
        f"{where} is {value:g}, and float32 holds no number above {largest:.2g}: scale the values "
        f'(StandardScaler, say), or let the network be of dtype="float64"'
    )


def _require_samples(array: Array, found: tuple[int, ...], features: int | None, name: str) -> None:
    wanted = f"the network takes {name} of shape (N, {features}), found {found}"
    if features is None:
        wanted = f"{name} must be (N, features) or images (N, height, width), found {found}"
    if array.ndim == 1:
        raise ShapeError(
            f"{wanted}: one sample is {name}.reshape(1, -1), several of one feature "
            f"{name}.reshape(-1, 1)"
        )
    if array.ndim != 2:
        raise ShapeError(wanted)
    if 0 in found:
        raise DataError(f"{name} is empty, shape {found}: give (N, features) with N above 0")
    if features is not None and array.shape[1] != features:
        if len(found) == 2 and math.prod(found) == features:
            wanted += f": one image is {name}.reshape(1, -1)"
        raise ShapeError(wanted)


def _as_array(value: Any, backend: Backend, name: str, about_text: str) -> tuple[Array, Place]:
    """`value` as an array of numbers of any shape, and the function that names its values."""
    if (pandas := sys.modules.get("pandas")) is not None:
        if isinstance(value, pandas.api.extensions.ExtensionArray | pandas.Index):
            value = pandas.Series(value)
        if isinstance(value, pandas.DataFrame):
            columns = FramePlace(name, list(value.columns))
            return _from_frame(value, columns, about_text), columns
        if isinstance(value, pandas.Series):
            return _from_series(value, named(name), about_text), named(name)
    if isinstance(value, str | bytes | type) or value is None:
        raise DataError(f"{name} is {_described(value)}: {_NUMBERS}")
    if hasattr(value, "toarray"):
        kind = type(value).__name__
        raise DataError(f"{name} is sparse ({kind}), and targets have to be dense: .toarray()")
    value = shared(_without_mask(value, name), backend.xp)
    if not isinstance(value, numpy.ndarray) and _is_on_device(value, backend, name):
        return _device_numbers(value, name), named(name)
    array = value if isinstance(value, numpy.ndarray) else _from_sequence(value, name)
    return _numbers(numpy.asarray(array), named(name), name, about_text), named(name)


def _is_on_device(value: Any, backend: Backend, name: str) -> bool:
    try:
        module = array_module(value)
    except TypeError:  # a list, or anything else that is no array
        return False
    if module != backend.xp:
        raise DeviceMismatch(
            f"{name} is an array of {module.__name__}, the network computes with "
            f"{backend.xp.__name__}: move it with Backend.asarray() or Backend.to_host()"
        )
    return True


def _device_numbers(array: Array, name: str) -> Array:
    if array.dtype.kind == "b":
        return array.astype("uint8")
    if array.dtype.kind not in "iuf":
        raise DataError(f"{name} is an array of {array.dtype}: {_NUMBERS}")
    return array


def _without_mask(value: Any, name: str) -> Any:
    """The values of a masked array, or of a list of such, if none is masked; else `value`."""
    if isinstance(value, list | tuple) and any(isinstance(v, numpy.ma.MaskedArray) for v in value):
        try:
            value = numpy.ma.stack([numpy.ma.asarray(row) for row in value])
        except _NO_ARRAY:
            return value
    if not isinstance(value, numpy.ma.MaskedArray):
        return value
    mask = numpy.ma.getmaskarray(value)
    if mask.any():
        where = named(name)(tuple(int(i) for i in numpy.argwhere(mask)[0]))
        raise DataError(f"{where} is masked: fill it in ({name}.filled(...)), or leave out the row")
    return value.data


def _from_sequence(value: Any, name: str) -> HostArray:
    """`numpy.asarray` of a list, or of an object that NumPy can convert to an array."""
    try:
        with without_warnings():
            array: HostArray = numpy.asarray(value)
            # NumPy converts [1, "a"] to two strings.
            if array.dtype.kind in "US" and isinstance(value, list | tuple):
                array = numpy.asarray(value, dtype=object)
    except _NO_ARRAY as error:
        raise DataError(_ragged(value, name) or _no_array(value, name, error)) from None
    if array.ndim == 0 and array.dtype.kind == "O":
        raise DataError(f"{name} is {_described(value)}: {_NUMBERS}")
    return array


def _ragged(value: Any, name: str) -> str:
    """The error for a row that has another length than the first, or ""."""
    if not isinstance(value, list | tuple) or not value:
        return ""
    sizes = [len(row) if hasattr(row, "__len__") else 0 for row in value]
    for row, size in enumerate(sizes):
        if size != sizes[0]:
            return (
                f"{name} is ragged: row {row} has {size} values, row 0 has {sizes[0]}: give all "
                f"rows the same length"
            )
    return ""


def _no_array(value: Any, name: str, error: Exception) -> str:
    return f"{name} is {_described(value)}, and no array can be made of it ({short_repr(error)})"


def _numbers(array: HostArray, place: Place, name: str, about_text: str) -> HostArray:
    """`array` in an accepted dtype of native byte order. Raises `DataError`."""
    kind = array.dtype.kind
    if kind == "O":
        return _from_objects(array, place, about_text)
    require_numbers(array.dtype, name, about_text)
    if kind == "b":
        return array.view(numpy.uint8)
    if kind == "f" and array.dtype.itemsize > 8:
        return array.astype(numpy.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def require_numbers(dtype: Any, name: str, about_text: str = _NO_SAMPLES_OF_TEXT) -> None:
    """Raise `DataError` unless `dtype` is one of real numbers or bools."""
    if dtype.kind in "biuf":
        return
    kinds = {"c": "complex numbers", "M": "dates", "m": "durations", "V": "records"}
    what = kinds.get(dtype.kind)
    if what is None:
        raise DataError(f"{name} holds text ({dtype}): {about_text}")
    raise DataError(f"{name} holds {what} ({dtype}): networks take real numbers")


def _from_objects(array: HostArray, place: Place, about_text: str) -> HostArray:
    """An array of Python numbers as an array of their common dtype."""
    for where, value in numpy.ndenumerate(array):
        if isinstance(value, numbers.Real | numpy.bool):
            continue
        found = f"{place(where)} is {_described(value)}"
        if is_missing(value):
            raise DataError(f"{found}, a missing value: fill it in, or leave out the row")
        if isinstance(value, str | bytes):
            raise DataError(f"{found}, and networks take numbers: {about_text}")
        raise DataError(f"{found}, and networks take real numbers")
    converted = numpy.array(array.tolist())
    if converted.dtype.kind == "b":
        return converted.view(numpy.uint8)
    try:
        return converted if converted.dtype.kind in "iuf" else array.astype(numpy.float64)
    except OverflowError:  # a whole number of more than 308 digits
        large = next(w for w, value in numpy.ndenumerate(array) if as_float(value) is None)
        raise DataError(
            f"{place(large)} is {short_repr(array[large])}, too large a number: float64 holds none "
            f"above 1.8e+308, scale the values"
        ) from None


def _from_frame(frame: Any, place: FramePlace, about_text: str) -> HostArray:
    """The columns as `(N, columns)`, in their common dtype."""
    dtypes = list(frame.dtypes)
    if all(isinstance(dtype, numpy.dtype) and dtype.kind in "iuf" for dtype in dtypes):
        return _numbers(frame.to_numpy(), place, place.name, about_text)
    columns = [
        _from_series(frame.iloc[:, number], place.of_column(number), about_text)
        for number in range(len(dtypes))
    ]
    if not columns:
        return numpy.empty(frame.shape)
    array = numpy.empty(frame.shape, dtype=numpy.result_type(*columns))
    for number, column in enumerate(columns):
        array[:, number] = column
    return array


def _from_series(series: Any, place: Place, about_text: str) -> HostArray:
    """The series as `(N,)` of a NumPy dtype. Raises `DataError` for a missing value."""
    dtype = series.dtype
    name = place(())
    if isinstance(dtype, numpy.dtype):
        return _numbers(series.to_numpy(), place, name, about_text)
    if dtype.name == "category":
        raise DataError(
            f"{name} is categorical (pandas), not numbers: give its codes (.cat.codes), or one "
            f"column a category (pandas.get_dummies)"
        )
    missing = series.isna().to_numpy()
    if missing.any():
        where = place((int(missing.argmax()),))
        raise DataError(f"{where} is missing (NA): fill it in, or leave out the row")
    own = getattr(dtype, "numpy_dtype", None)
    if isinstance(dtype, sys.modules["pandas"].SparseDtype):
        own = dtype.subtype
    if isinstance(own, numpy.dtype) and own.kind in "biuf":
        return _numbers(series.to_numpy(dtype=own), place, name, about_text)
    if getattr(dtype, "kind", "O") in "Mm":
        raise DataError(f"{name} holds dates ({dtype}): networks take real numbers")
    return _numbers(series.to_numpy(dtype=object), place, name, about_text)


def is_missing(value: Any) -> bool:
    """Whether `value` is None, NA or NaT of pandas, or a masked value; NaN is a float."""
    return value is None or type(value).__name__ in ("NAType", "NaTType", "MaskedConstant")


def _described(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, str | bytes):
        return f"the text {short_repr(value)}"
    if isinstance(value, Iterator):
        return f"of type {type(value).__name__}, which can be read only once"
    return f"of type {type(value).__name__}"
