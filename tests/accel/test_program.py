"""A step as a program: what an operation says of itself, and what takes the place of `xp`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import xpnet as xn
from xpnet.accel import program
from xpnet.accel.program import Op, Operations, operation, replaced, run, run_op, trace
from xpnet.backend import Array, Backend, array_module
from xpnet.layers.base import Layer


def test_the_program_of_a_forward_pass(backend: Backend) -> None:
    network = xn.Sequential([xn.Linear(5, 4), xn.Tanh()], backend=backend)
    x = backend.asarray(np.ones((3, 5), np.float32))
    network.forward(x, training=True)
    found = trace(backend.xp, lambda: network.forward(x, training=True))
    assert [(op.name, op.origin) for op in found] == [
        ("dot", "Linear.forward"),
        ("add", "Linear.forward"),
        ("tanh", "Tanh.forward"),
    ]
    product, bias, _ = found
    weight = network.layers[0].values["weight"]
    assert product.inputs[0] is x
    assert product.inputs[1].shape == weight.T.shape
    assert bias.inputs[1] is network.layers[0].values["bias"]
    assert bias.inputs[0] is bias.output is product.output
    assert not any(op.is_kernel or op.options for op in found)
    assert str(product) == ("Linear.forward: dot(float32[3, 5], float32[5, 4], out=float32[3, 4])")


def test_an_operation_of_a_block_is_of_who_entered_it() -> None:
    """`set_num_threads`, which a context manager asks for."""

    class Step:
        def run(self) -> None:
            with entered():
                pass

    @contextmanager
    def entered() -> Iterator[None]:
        run_op(np, Op("set_num_threads", (1,), None, lambda: None))
        yield

    (op,) = trace(np, Step().run)
    assert str(op) == "Step.run: set_num_threads(1)"


@pytest.mark.parametrize("by_name", [False, True])
def test_a_copy_has_a_source_and_a_target(backend: Backend, by_name: bool) -> None:
    a, b = backend.xp.ones(3), backend.xp.zeros(3)

    def step() -> None:
        given: dict[str, Any] = {"dst": b, "src": a} if by_name else {}
        array_module(a, b).copyto(*([] if by_name else [b, a]), casting="same_kind", **given)

    (op,) = trace(backend.xp, step)
    assert (op.inputs, op.output, op.options) == ((a,), b, {"casting": "same_kind"})
    b.fill(0)
    op.call()
    assert backend.to_host(b).tolist() == [1, 1, 1]


def test_it_equals_the_module_and_a_workspace_does_not_keep_it(backend: Backend) -> None:
    xp = backend.xp
    one, other = Operations(xp), Operations(xp, [])
    assert one == other == xp == one
    assert hash(one) == hash(xp)
    assert one != np.linalg
    assert Operations(np.linalg) != one
    workspace = xn.workspace.Workspace()  # type: ignore[attr-defined]
    made = workspace.array(one, "a", (3,), xp.float32)
    assert workspace.array(xp, "a", (3,), xp.float32) is made
    kept = {id(part) for key in workspace._memory for part in key}
    assert id(one) not in kept


def test_what_a_workspace_allocates_is_no_operation(backend: Backend) -> None:
    some, workspace = backend.xp.ones(1), xn.workspace.Workspace()  # type: ignore[attr-defined]

    def step() -> None:
        xp = array_module(some)
        assert xp is not backend.xp
        workspace.array(xp, "a", (2, 3), xp.float32)
        found = workspace.zeros(xp, (2,), xp.float32), workspace.ones(xp, 2, xp.float32)
        values = [backend.to_host(a).tolist() for a in (*found, workspace.numbers(xp, 2, xp.int64))]
        assert values == [[0, 0], [1, 1], [0, 1]]

    assert not trace(backend.xp, step)


def test_only_products_are_looked_at_where_nothing_is_recorded(backend: Backend) -> None:
    xp = backend.xp
    module = Operations(xp)
    assert module.add is xp.add
    assert module.linalg is xp.linalg
    a = xp.ones((2, 2))
    assert backend.to_host(module.dot(a, a)).tolist() == [[2, 2], [2, 2]]


def halves(op: Op) -> list[Op]:
    """Each product in two, by its rows."""
    (a, b), out = op.inputs, op.output
    return [operation(np, op.name, (a[part], b), {"out": out[part]}) for part in HALVES]


HALVES = slice(0, 2), slice(2, 4)


def test_a_pass_replaces_products_recorded_or_not() -> None:
    a, out = np.arange(16.0).reshape(4, 4), np.empty((4, 4))

    def step() -> None:
        with replaced(np, halves):
            assert array_module(a).dot(a, a, out=out) is out
        array_module(a).dot(a, a, out=out)

    step()
    assert np.array_equal(out, a @ a)
    assert [op.inputs[0].shape for op in trace(np, step)] == [(2, 4), (2, 4), (4, 4)]
    with replaced(np, halves):
        found = trace(np, lambda: array_module(a).dot(a, a, out=out))
    assert [op.inputs[0].shape for op in found] == [(2, 4), (2, 4)]
    assert array_module(a) is np


class Checked(Layer):
    """Raises an error in its own operation, once it is replayed with a wrong index."""

    replayable = True

    def forward(self, x: Array, *, training: bool) -> Array:
        y = self.like(x, "y")
        return array_module(x).take(x, ROWS, axis=0, out=y)

    def backward(self, dy: Array) -> Array:
        return array_module(dy).multiply(dy, 1, out=self.like(dy, "dx"))


ROWS = np.arange(4)


def test_an_error_of_a_replayed_step_names_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROWS", np.arange(4))
    network = xn.Sequential([xn.Linear(3, 5), Checked(), xn.Linear(5, 2)])
    step = xn.TrainStep(network, "cross_entropy", "sgd")
    x, y = np.ones((4, 3), np.float32), np.zeros(4, np.int64)
    for _ in range(3):
        step(x, y)
    ROWS[2] = 7
    with pytest.raises(IndexError, match="out of bounds") as caught:
        step(x, y)
    (note,) = caught.value.__notes__
    assert note.startswith("in a recorded step, Checked.forward: take(float32[4, 5], int64[4], ")


def test_a_program_runs_its_operations_in_order_until_one_fails() -> None:
    done: list[int] = []

    def fail() -> None:
        raise KeyboardInterrupt

    ops = [Op(str(i), (), None, lambda i=i: done.append(i)) for i in range(3)]  # type: ignore[misc]
    run(tuple(ops))()
    assert done == [0, 1, 2]
    with pytest.raises(KeyboardInterrupt) as caught:
        run((ops[0], Op("fail", (), None, fail), ops[1]))()
    assert done == [0, 1, 2, 0]
    assert not hasattr(caught.value, "__notes__")
    run(())()
    assert program.trace(np, lambda: None) == ()


def test_a_recorded_operation_takes_numbers_of_another_dtype() -> None:
    x, y = np.array([3.0, 5.0], np.float32), np.empty(2, np.float32)
    operation(np, "ldexp", (x, -1), {"out": y}).call()
    assert y.tolist() == [1.5, 2.5]
