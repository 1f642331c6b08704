"""How exact the products of each precision are, and a training with them.

With `--device cuda` by cuBLAS, else by the double's, which computes in float32 whatever it is asked
for: there these tests check the calls, and float32.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from thread_settings import SETTINGS

import xpnet as xn
from xpnet.accel.cublas import PRECISIONS, Products
from xpnet.backend import Backend
from xpnet.cli import train
from xpnet.network import Sequential

UNIT = 2.0**-23
"""Of a sum in float32: of rounding, or of cutting off as tensor cores do."""

FACTOR = {"float32": 0.0, "tf32": 2.0**-10, "bfloat16": 2.0**-7}
"""By how much a factor may be off: 10 or 7 bits after the point remain, rounded or cut off."""

precisions = pytest.mark.parametrize("precision", PRECISIONS)


@pytest.fixture
def computed(device: Backend) -> Callable[..., np.ndarray]:
    """`computed(precision, a, b)`: `a b` by a handle of xpnet's own, into what held NaN."""
    xp, made = device.xp, {}
    stream = xp.cuda.Stream(non_blocking=True)

    def compute(precision: str, *factors: np.ndarray) -> np.ndarray:
        if precision not in made:
            made[precision] = Products(xp, stream, precision)
        a, b = map(device.asarray, factors)
        out = device.asarray(np.full(np.matmul(*factors).shape, np.nan, factors[0].dtype))
        device.synchronize()
        with stream:
            made[precision].product(a, b, out)()
            stream.synchronize()
        return device.to_host(out)

    return compute


def shapes(draw: np.random.Generator, dtype: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Matrices that lie by rows and by columns, vectors, and stacks; whole numbers up to 100."""
    for rows, inner, columns in itertools.product((1, 5, 17), (1, 3, 33), (1, 2, 16)):
        for order, other in itertools.product("CF", "CF"):
            a, b, stack, stacked = (
                draw.integers(-100, 101, shape).astype(dtype)
                for shape in (
                    (rows, inner),
                    (inner, columns),
                    (3, rows, inner),
                    (3, inner, columns),
                )
            )
            a, b = np.asarray(a, order=order), np.asarray(b, order=other)
            yield a, b
            yield a, b[:, 0].copy()
            yield a[0].copy(), b
            yield a[0].copy(), b[:, 0].copy()
            yield stack, b
            yield a, stacked
            yield stack, stacked


@precisions
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_of_whole_numbers_are_exact(precision: str, dtype: str, computed: Any) -> None:
    """A number up to 100 has 7 bits, which every precision keeps, and sums are below 2²⁴."""
    for a, b in itertools.islice(shapes(np.random.default_rng(0), dtype), 0, None, 5):
        assert np.array_equal(computed(precision, a, b), np.matmul(a, b))


@precisions
def test_products_are_as_exact_as_their_precision(precision: str, computed: Any) -> None:
    draw = np.random.default_rng(1)
    for rows, inner, columns in ((1, 1, 1), (7, 40, 5), (33, 200, 17), (64, 1000, 10)):
        a, b = (
            draw.standard_normal(shape).astype(np.float32)
            for shape in ((rows, inner), (inner, columns))
        )
        exact = np.matmul(a.astype(float), b.astype(float))
        size = np.matmul(np.abs(a).astype(float), np.abs(b).astype(float))
        of_factors = 2 * FACTOR[precision] + FACTOR[precision] ** 2
        bound = ((1 + of_factors) * (1 + UNIT) ** (inner + 1) - 1) * size
        for order in "CF":
            found = computed(precision, np.asarray(a, order=order), b)
            assert (np.abs(found - exact) <= bound).all()


@precisions
@pytest.mark.parametrize("graphs", [False, True])
def test_training_stays_within_what_its_products_may_be_off(
    precision: str, graphs: bool, device: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logistic regression, 8 steps in float64, beside a bound of how far they may be apart."""
    monkeypatch.setattr(SETTINGS, "graphs_enabled", graphs)
    draw, rate, steps = np.random.default_rng(2), 0.05, 8
    x = draw.standard_normal((40, 12)).astype(np.float32)
    labels = draw.integers(0, 3, 40)
    network = Sequential([xn.Linear(12, 3)], backend=device, seed=1)
    start = {
        name: device.to_host(value).astype(float) for name, value in network.state_dict().items()
    }
    xn.fit(
        network,
        (x, labels),
        optimizer=xn.SGD(rate),
        epochs=steps,
        batch_size=None,
        precision=precision,
    )
    wide, target = x.astype(float), np.eye(3)[labels]
    if start["0.weight"].shape == (3, 12):
        start["0.weight"] = start["0.weight"].T
    weight, bias = start["0.weight"], start["0.bias"]
    off_weight, off_bias = np.zeros_like(weight), np.zeros_like(bias)
    factors = 2 * FACTOR[precision] + FACTOR[precision] ** 2
    product, back = factors + 14 * UNIT, factors + 42 * UNIT  # of 12 and of 40 terms
    for _ in range(steps):
        z = wide @ weight + bias
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        size = np.abs(wide) @ (np.abs(weight) + off_weight)
        off_z = np.abs(wide) @ off_weight + off_bias + product * size + UNIT * np.abs(z)
        # Each exponential is off by a factor of e^±δ, and their sum; 16 units for exp and the sum.
        off_p = p * np.expm1(2 * off_z.max(axis=1, keepdims=True)) + 16 * UNIT
        slope = (p - target) / len(x)
        off_slope = off_p / len(x) + UNIT * np.abs(slope)
        sizes = np.abs(wide).T @ (np.abs(slope) + off_slope)
        off_weight = off_weight + rate * (np.abs(wide).T @ off_slope + back * sizes)
        off_bias = off_bias + rate * (
            off_slope.sum(axis=0) + 42 * UNIT * np.abs(slope).sum(axis=0) + UNIT
        )
        weight, bias = weight - rate * (wide.T @ slope), bias - rate * slope.sum(axis=0)
        off_weight += UNIT * np.abs(weight)
        off_bias += UNIT * np.abs(bias)
    found = {name: device.to_host(value) for name, value in network.state_dict().items()}
    by_inputs = found["0.weight"] if found["0.weight"].shape == (12, 3) else found["0.weight"].T
    assert (np.abs(by_inputs - weight) <= off_weight).all()
    assert (np.abs(found["0.bias"] - bias) <= off_bias).all()


@pytest.mark.slow
@precisions
def test_the_command_trains_with_a_precision(
    precision: str,
    request: pytest.FixtureRequest,
    device: Backend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if request.config.getoption("--device") != "cuda":
        monkeypatch.setattr(train, "Backend", lambda _: device)
        monkeypatch.setattr(SETTINGS, "graphs_enabled", False)
    run = tmp_path / "run"
    flags = ["--device", "cuda", "--precision", precision, "--epochs", "1", "--hidden", "8"]
    assert train.main([*flags, "--batch-size", "500", "--run", str(run)]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["precision"] == precision
    network = xn.load(run / "model.safetensors")
    assert np.isfinite(network.flat_parameters).all()
