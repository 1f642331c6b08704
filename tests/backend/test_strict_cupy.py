"""The double catches what would fail, or be slow, on a GPU: one planted mistake for each rule."""

from __future__ import annotations

import copy
import math

import cupy
import numpy
import pytest
import strict_cupy
from strict_cupy import forbid, ledger, ndarray, xp

from xpnet.backend import Backend, array_module

HOST = numpy.arange(6, dtype=numpy.float32).reshape(2, 3)


@pytest.fixture(autouse=True)
def fresh_ledger():
    ledger.reset()


@pytest.fixture
def x():
    """(2, 3) float32, 0 to 5."""
    array = xp.asarray(HOST)
    ledger.reset()
    return array


MISTAKES = {
    "implicit conversion": (TypeError, lambda x: numpy.asarray(x)),
    "implicit conversion in a list": (TypeError, lambda x: numpy.array([x, x])),
    "array interface": (TypeError, lambda x: x.__array_interface__),
    "numpy function": (TypeError, lambda x: numpy.sum(x)),
    "numpy ufunc": (TypeError, lambda x: numpy.exp(x)),
    "host array on the right": (TypeError, lambda x: x + HOST),
    "host array on the left": (TypeError, lambda x: HOST + x),
    "host array compared": (TypeError, lambda x: x == HOST),
    "host scalar on the right": (TypeError, lambda x: x * numpy.float32(2)),
    "host scalar on the left": (TypeError, lambda x: numpy.float64(2) * x),
    "list as an operand": (TypeError, lambda x: x - [1, 2, 3]),
    "host array in a ufunc": (TypeError, lambda x: xp.add(x, HOST)),
    "host scalar in a ufunc": (TypeError, lambda x: xp.add(x, numpy.float32(1))),
    "host array in a function": (TypeError, lambda x: xp.sum(HOST)),
    "host array in a list": (TypeError, lambda x: xp.concatenate([x, HOST])),
    "list in a function": (TypeError, lambda x: xp.sum([1.0, 2.0])),
    "host scalar in a function": (TypeError, lambda x: xp.full((2,), numpy.float32(1))),
    "host out": (TypeError, lambda x: xp.exp(x, out=numpy.empty((2, 3), numpy.float32))),
    "host out of a reduction": (TypeError, lambda x: xp.sum(x, axis=0, out=numpy.empty(3))),
    "host indices": (TypeError, lambda x: xp.take(x, numpy.array([0]), axis=0)),
    "host array as an index": (TypeError, lambda x: x[numpy.array([0, 1])]),
    "list as an index": (TypeError, lambda x: x[[0, 1]]),
    "host array assigned": (TypeError, lambda x: x.__setitem__(0, numpy.ones(3))),
    "host scalar assigned": (TypeError, lambda x: x.__setitem__(0, numpy.float32(1))),
    "host scalar filled in": (TypeError, lambda x: x.fill(numpy.float32(1))),
    "device number as a size": (TypeError, lambda x: xp.zeros(xp.asarray(3))),
    "device number in a slice": (TypeError, lambda x: x[xp.asarray(0) :]),
    "device number in range()": (TypeError, lambda x: range(xp.asarray(3))),
    "iteration over 0-d": (TypeError, lambda x: list(x[0, 0])),
    "hash": (TypeError, lambda x: {x: 1}),
    "@=": (TypeError, lambda x: x.__imatmul__(x)),
    "where= of a ufunc": (TypeError, lambda x: xp.exp(x, where=x > 1)),
    "order= of a ufunc": (TypeError, lambda x: xp.exp(x, order="C")),
    "initial= of a reduction": (TypeError, lambda x: xp.max(x, initial=0)),
    "where= of a reduction": (TypeError, lambda x: xp.sum(x, where=x > 1)),
    "mode= of take": (TypeError, lambda x: xp.take(x, xp.asarray([0]), mode="clip")),
    "like= of zeros": (TypeError, lambda x: xp.zeros(3, like=x)),
    "positional order of argmax": (
        TypeError,
        lambda x: xp.argmax(x, 1, xp.empty(2, dtype=xp.int64)),
    ),
    "keyword of a method": (TypeError, lambda x: x.sum(initial=0)),
    "too many operands": (TypeError, lambda x: xp.exp(x, x, x)),
    "too few operands": (TypeError, lambda x: xp.add(x)),
    "out given twice": (ValueError, lambda x: xp.exp(x, x, out=x)),
    "shape of out": (ValueError, lambda x: xp.exp(x, out=xp.empty((3, 2), dtype=xp.float32))),
    "shape of out of a reduction": (
        ValueError,
        lambda x: xp.sum(x, axis=0, out=xp.empty((1, 3), dtype=xp.float32)),
    ),
    "dtype of out": (TypeError, lambda x: xp.exp(x, out=xp.empty((2, 3), dtype=xp.int32))),
    "dtype of out of a reduction": (
        TypeError,
        lambda x: xp.sum(x, axis=0, out=xp.empty(3, dtype=xp.int64)),
    ),
    "dtype of out of dot": (
        TypeError,
        lambda x: xp.dot(x, x.T, out=xp.empty((2, 2), dtype=xp.float64)),
    ),
    "dtype of out of take": (
        TypeError,
        lambda x: xp.take(x, xp.asarray([0]), axis=0, out=xp.empty((1, 3), dtype=xp.float64)),
    ),
    "out of dot not contiguous": (
        ValueError,
        lambda x: xp.dot(x, x.T, out=xp.empty((2, 2), dtype=xp.float32).T[:, ::1]),
    ),
    "out of dot overlaps": (
        ValueError,
        lambda x: xp.dot(x[:, :2], xp.ones((2, 3), dtype=xp.float32), out=x),
    ),
    "out of matmul overlaps": (
        ValueError,
        lambda x: xp.matmul(x[:, :2], xp.ones((2, 3), dtype=xp.float32), out=x),
    ),
    "in place to a smaller kind": (TypeError, lambda x: xp.arange(3).__iadd__(0.5)),
    "assignment to a smaller kind": (
        TypeError,
        lambda x: xp.arange(3).__setitem__(slice(None), x[0]),
    ),
    "one place assigned twice": (ValueError, lambda x: x.__setitem__(xp.asarray([0, 0]), 1.0)),
    "float indices": (TypeError, lambda x: xp.take(x, x[0], axis=0)),
    "objects": (TypeError, lambda x: xp.asarray(["a", None])),
    "name that CuPy has not": (AttributeError, lambda x: xp.errstate),
    "misspelt name": (AttributeError, lambda x: xp.maximun(x, 0)),
    "attribute that CuPy has not": (AttributeError, lambda x: x.ctypes),
    "flag that CuPy has not": (AttributeError, lambda x: x.flags.writeable),
    "generator of CuPy": (AttributeError, lambda x: xp.random.default_rng(0)),
    "CUDA kernel": (AttributeError, lambda x: xp.ElementwiseKernel("", "", "", "k")),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_refused(name, x):
    kind, mistake = MISTAKES[name]
    with pytest.raises(kind):
        mistake(x)


EVENTS = {
    "get": (lambda x: x.get(), {"d2h", "sync"}),
    "to_host": (lambda x: Backend.of(x).to_host(x), {"d2h", "sync"}),
    "asnumpy": (lambda x: xp.asnumpy(x), {"d2h", "sync"}),
    "tolist": (lambda x: x.tolist(), {"d2h", "sync"}),
    "print": (lambda x: str(x), {"d2h", "sync"}),
    "item": (lambda x: x[0, 0].item(), {"sync"}),
    "float": (lambda x: float(x[0, 0]), {"sync"}),
    "int": (lambda x: int(x[0, 0]), {"sync"}),
    "bool": (lambda x: bool(x[0, 0]), {"sync"}),
    "format": (lambda x: f"{x[0, 0]:.3f}", {"sync"}),
    "if": (lambda x: 1 if x[0, 0] else 0, {"sync"}),
    "synchronize": (lambda x: Backend.of(x).synchronize(), {"sync"}),
    "mask": (lambda x: x[x > 1], {"sync", "alloc"}),
    "assignment of a number through a mask": (
        lambda x: x.__setitem__(x > 1, 0.0),
        {"alloc", "sync"},
    ),
    "assignment of an array through a mask": (
        lambda x: x.__setitem__(x > 9, x[0, :0]),
        {"alloc", "sync"},
    ),
    "nonzero": (lambda x: xp.nonzero(x), {"sync", "alloc"}),
    "where of one": (lambda x: xp.where(x), {"sync", "alloc"}),
    "asarray": (lambda x: xp.asarray([1.0]), {"h2d", "alloc"}),
    "array": (lambda x: xp.array(HOST), {"h2d", "alloc"}),
    "asarray of a number": (lambda x: xp.asarray(1.0), {"h2d", "alloc"}),
    "set": (lambda x: x.set(HOST), {"h2d"}),
    "asarray of a device array": (lambda x: xp.asarray(x), set()),
    "asarray to another dtype": (lambda x: xp.asarray(x, dtype=xp.float64), {"alloc"}),
    "empty": (lambda x: xp.empty((2,)), {"alloc"}),
    "zeros": (lambda x: xp.zeros((2,)), {"alloc"}),
    "ufunc": (lambda x: xp.exp(x), {"alloc"}),
    "ufunc with out": (lambda x: xp.exp(x, out=x), set()),
    "ufunc with positional out": (lambda x: xp.exp(x, x), set()),
    "reduction": (lambda x: xp.sum(x), {"alloc"}),
    "method": (lambda x: x.sum(axis=0), {"alloc"}),
    "operator": (lambda x: x + 1, {"alloc"}),
    "operator in place": (lambda x: x.__iadd__(1), set()),
    "product": (lambda x: x @ x.T, {"alloc"}),
    "index array": (lambda x: x[xp.arange(2)], {"alloc"}),
    "copy": (lambda x: x.copy(), {"alloc"}),
    "deepcopy": (lambda x: copy.deepcopy(x), {"alloc"}),
    "astype": (lambda x: x.astype(xp.float64), {"alloc"}),
    "astype without a copy": (lambda x: x.astype(xp.float32, copy=False), set()),
    "slice": (lambda x: x[:, 1:], set()),
    "element": (lambda x: x[0, 1], set()),
    "row": (lambda x: x[-1], set()),
    "iteration": (lambda x: list(x), set()),
    "transpose": (lambda x: x.T, set()),
    "reshape": (lambda x: x.reshape(3, 2), set()),
    "reshape function": (lambda x: xp.reshape(x, (3, 2)), set()),
    "reshape that copies": (lambda x: x.T.reshape(-1), {"alloc"}),
    "ravel": (lambda x: x.ravel(), set()),
    "ravel that copies": (lambda x: x.T.ravel(), {"alloc"}),
    "broadcast": (lambda x: xp.broadcast_to(x, (4, 2, 3)), set()),
    "assignment": (lambda x: x.__setitem__((slice(None), 0), 1.0), set()),
    "assignment of an array": (lambda x: x.__setitem__(0, x[1]), set()),
    "fill": (lambda x: x.fill(0.0), set()),
    "copyto": (lambda x: xp.copyto(x[0], x[1]), set()),
    "shape and dtype": (lambda x: (len(x), x.shape, x.dtype, x.nbytes, x.flags), set()),
    "repr": (lambda x: repr(x), set()),
}


@pytest.mark.parametrize("name", EVENTS)
def test_events_are_counted(name, x):
    action, expected = EVENTS[name]
    action(x)
    assert set(ledger.counts) - {"op"} == expected


@pytest.mark.parametrize("name", [name for name, (_, events) in EVENTS.items() if events])
def test_forbid_stops_each_event_and_ends_with_its_block(name, x):
    action, events = EVENTS[name]
    for event in events:
        with forbid(event), pytest.raises(AssertionError, match=f"caused {event}"):
            action(x)
    action(x)
    with forbid(*{"h2d", "d2h", "sync", "alloc"} - events):
        action(x)


def test_forbid_names_the_operation(x):
    with forbid("alloc"), pytest.raises(AssertionError, match=r"^exp caused alloc"):
        xp.exp(x)


def test_forbid_nests_and_ends_after_an_error(x):
    with forbid("sync"):
        with pytest.raises(KeyError), forbid("alloc"):
            raise KeyError
        xp.exp(x)
        with forbid("alloc"), pytest.raises(AssertionError, match="sync"):
            float(x[0, 0])
        with pytest.raises(AssertionError, match="sync"):
            float(x[0, 0])
    assert float(x[0, 1]) == 1


def test_forbid_knows_its_events():
    with pytest.raises(ValueError, match="syncs"), forbid("syncs"):
        pass


def test_operations_are_listed_by_name(x):
    out = xp.empty((2, 2), dtype=xp.float32)
    xp.dot(x, x.T, out=out)
    xp.maximum(out, 0, out=out)
    out += 1
    assert ledger.operations == {"empty": 1, "dot": 1, "maximum": 1, "add": 1}
    assert ledger.counts["op"] == 4
    ledger.reset()
    assert not ledger.counts
    assert not ledger.operations


def test_what_is_given_as_out_comes_back(x):
    out = xp.empty((2, 3), dtype=xp.float32)
    assert xp.exp(x, out=out) is out
    column = xp.empty((2,), dtype=xp.float32)
    assert xp.sum(x, axis=1, out=column) is column
    assert column.tolist() == [3, 12]


def test_results_without_axes_stay_on_the_device(x):
    for result in (xp.sum(x), x.max(), x[0, 0], x[0] @ x[1], x[0, 0] + x[0, 1], xp.exp(x[0, 0])):
        assert type(result) is ndarray
        assert result.shape == ()
    assert type(xp.allclose(x, x)) is ndarray
    assert all(type(part) is ndarray for row in x for part in row)


def test_views_share_memory(x):
    x[0, 1].fill(7.0)
    x.T[2, 0].fill(8.0)
    x.reshape(-1)[3:4].fill(9.0)
    assert x.tolist() == [[0, 7, 8], [9, 4, 5]]
    x[..., 0] += 1.0
    assert x.tolist() == [[1, 7, 8], [10, 4, 5]]


def test_upload_and_download_are_copies():
    host = numpy.zeros(3)
    device = xp.asarray(host)
    host[0] = 1
    device.get()[1] = 1
    assert device.tolist() == [0, 0, 0]


@pytest.mark.parametrize("indices", [[2, -1, 5], [0, 1, 1]])
def test_indices_out_of_range_wrap_in_silence(indices, x):
    expected = HOST[numpy.array(indices) % 2]
    at = xp.asarray(indices)
    out = xp.empty((3, 3), dtype=xp.float32)
    xp.take(x, at, axis=0, out=out)
    assert numpy.array_equal(out.get(), expected)
    assert numpy.array_equal(x[at].get(), expected)
    assert numpy.array_equal(x[..., at].get(), HOST[..., numpy.array(indices) % 3])
    assert numpy.array_equal(x[None, at, 1:].get(), expected[None, :, 1:])


def test_labels_are_picked_and_written(x):
    rows, labels = xp.arange(2), xp.asarray([2, 0])
    assert x[rows, labels].tolist() == [2, 3]
    x[rows, labels] -= 1.0
    assert x.tolist() == [[0, 1, 1], [2, 4, 5]]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint64", "uint8", "bool"])
def test_memory_never_written_is_not_zero(dtype):
    like = xp.zeros((2, 2), dtype=dtype)
    for array in (xp.empty((3, 2), dtype=dtype), xp.empty_like(like)):
        assert array.dtype == dtype
        values = array.get()
        assert values.all()
        assert values.dtype.kind != "f" or numpy.isnan(values).all()


def test_no_warning_where_cupy_gives_none(x):
    assert math.isinf(float(xp.log(x)[0, 0]))
    assert math.isnan(float((x / 0.0)[0, 0]))


VALUES = {
    "exp": lambda xp, a, b: xp.exp(a),
    "maximum": lambda xp, a, b: xp.maximum(a, 2),
    "power": lambda xp, a, b: a**2 / (1 - b) // 3 % 2,
    "reversed": lambda xp, a, b: 2 - a + 3 * b,
    "compare": lambda xp, a, b: (a > b) | (a <= 1) ^ ~(a == b),
    "unary": lambda xp, a, b: abs(-a) + +b,
    "shift": lambda xp, a, b: (a.astype(xp.uint32) << 3) >> 1,
    "scalar keeps dtype": lambda xp, a, b: a * 0.1,
    "dtype": lambda xp, a, b: xp.multiply(a, b, dtype=xp.float64),
    "promotion": lambda xp, a, b: a + xp.ones(3, dtype=xp.int32),
    "matmul": lambda xp, a, b: a @ b.T,
    "dot": lambda xp, a, b: a[0].dot(b.T),
    "einsum": lambda xp, a, b: xp.einsum("ij,kj->ik", a, b),
    "sum": lambda xp, a, b: xp.sum(a, axis=1, keepdims=True),
    "mean": lambda xp, a, b: a.mean(axis=0, dtype=xp.float64),
    "var": lambda xp, a, b: xp.var(a, axis=0),
    "argmax": lambda xp, a, b: xp.argmax(a, axis=1),
    "where": lambda xp, a, b: xp.where(a > 1, b, 0.0),
    "clip": lambda xp, a, b: xp.clip(a, 1, 3),
    "concatenate": lambda xp, a, b: xp.concatenate((a, b), axis=1),
    "stack": lambda xp, a, b: xp.stack([a, b]),
    "take": lambda xp, a, b: xp.take(a, xp.asarray([1, 0]), axis=0),
    "mask": lambda xp, a, b: a[a > 2],
    "argsort": lambda xp, a, b: xp.argsort(-a, axis=1),
    "bincount": lambda xp, a, b: xp.bincount(a.ravel().astype(xp.int64), minlength=8),
    "reshape": lambda xp, a, b: xp.reshape(a, (3, 2)).T,
    "arange": lambda xp, a, b: xp.arange(1, 7, 2, dtype=xp.float32),
    "full": lambda xp, a, b: xp.full((2, 2), 1.5, dtype=xp.float32),
    "eye": lambda xp, a, b: xp.eye(3, dtype=xp.float32),
    "norm": lambda xp, a, b: xp.linalg.norm(a),
    "count": lambda xp, a, b: xp.count_nonzero(a),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_are_those_of_numpy(name):
    b = HOST + 2
    expected = numpy.asarray(VALUES[name](numpy, HOST, b))
    found = VALUES[name](xp, xp.asarray(HOST), xp.asarray(b))
    assert type(found) is ndarray
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert numpy.array_equal(found.get(), expected)


def test_questions_about_arrays_are_answered_on_the_host(x):
    assert xp.ndim(x) == 2
    assert xp.result_type(x, xp.float64) == numpy.float64
    assert xp.may_share_memory(x, x[1:]) is True
    assert xp.float32 is numpy.float32
    assert xp.newaxis is None
    assert set(ledger.counts) == {"op"}


def test_out_of_several_results(x):
    fraction, whole = xp.empty((2, 3), dtype=xp.float32), xp.empty((2, 3), dtype=xp.float32)
    xp.modf(x / 2, out=(fraction, whole))
    assert fraction[0].tolist() == [0, 0.5, 0]
    assert whole[1].tolist() == [1, 2, 2]
    with pytest.raises(ValueError, match="2 arrays"):
        xp.modf(x, out=fraction)


def test_methods_of_the_double_are_methods_of_cupy():
    own = {name for name in vars(ndarray) if not name.startswith("_")}
    assert own <= set(dir(cupy.ndarray))


def test_the_double_enters_xpnet_through_its_door(x):
    assert array_module(x, x.T) is xp
    backend = Backend.of(x)
    assert backend.xp is xp
    assert Backend.of(xp).device == "cuda"
    assert strict_cupy.xp.__name__ == "strict_cupy"
