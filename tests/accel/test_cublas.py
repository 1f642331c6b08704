"""`fit(precision=)`: what cuBLAS is asked for, in a graph and outside; who is refused.

The double's cuBLAS multiplies in float32 whatever it is asked for: what is right here is what it is
asked for, of which products, and that nothing else changes.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cupy
import numpy as np
import pytest
import strict_cupy
import strict_graphs
from cuda_on_cpu import kernels_on_the_double
from strict_graphs import Cublas, graphs_on_the_double
from test_cuda_graph import DOUBLE, assert_close, call_by_call, everything, plain, trained
from thread_settings import SETTINGS

import xpnet as xn
from xpnet import config
from xpnet.accel import cublas
from xpnet.accel.cublas import PRECISIONS, Products
from xpnet.accel.program import Operations
from xpnet.accel.recording import record
from xpnet.backend import Backend, array_module
from xpnet.backend.context import current
from xpnet.cli import train
from xpnet.errors import BackendUnavailable, CheckpointError, ConfigError
from xpnet.network import Sequential

EXACT = PRECISIONS["float32"]
REDUCED = [name for name in PRECISIONS if name != "float32"]
reduced = pytest.mark.parametrize("precision", REDUCED)


def asked_for(cublas: Cublas) -> dict[bool, set[int]]:
    """The compute types of products with a vector and of those of two matrices."""
    return {
        matrices: {kind for (kind, both), _ in cublas.computed.items() if both == matrices}
        for matrices in (False, True)
    }


# ---- what is asked for ----


@pytest.mark.slow
@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_graph_asks_for_the_precision(precision: str, kernels: bool) -> None:
    with kernels_on_the_double() if kernels else nullcontext():
        expected = call_by_call(make=everything, optimizer=xn.SGD(0.05))
        with graphs_on_the_double() as pretended:
            found = trained(make=everything, optimizer=xn.SGD(0.05), precision=precision)
            assert Counter(strict_graphs.log)["launch"] == 14
    assert asked_for(pretended) == {True: {PRECISIONS[precision]}, False: {EXACT}}
    assert_close(found, expected)


@reduced
def test_a_step_call_by_call_asks_for_the_same(precision: str) -> None:
    with graphs_on_the_double() as pretended:
        found = call_by_call(make=everything, optimizer=xn.SGD(0.05), precision=precision)
        assert strict_graphs.log == []
    # Products with a vector are CuPy's own.
    assert asked_for(pretended) == {True: {PRECISIONS[precision]}, False: set()}
    with graphs_on_the_double() as again:
        other = trained(make=everything, optimizer=xn.SGD(0.05), precision=precision)
    matrices = [sum(n for (_, both), n in c.computed.items() if both) for c in (pretended, again)]
    assert matrices[0] == matrices[1] > 0
    assert_close(found, other)


def test_float32_outside_of_a_graph_is_cupy_itself() -> None:
    with graphs_on_the_double() as pretended:
        call_by_call()
        assert cublas.chosen("float32", DOUBLE, "float32") is None
        assert pretended.computed == {}
        assert pretended.handles == {}


@reduced
def test_all_of_fit_and_nothing_after_it(precision: str) -> None:
    """Validation within a training is computed as the training is; what is asked later is not."""
    seen: list[Any] = []
    precisions: set[str] = set()

    class Look(xn.Callback):
        def on_step_end(self, run: Any) -> None:
            seen.append(array_module(run.network.flat_parameters))
            precisions.add(current().precision)

    with graphs_on_the_double() as pretended:
        x = DOUBLE.asarray(np.ones((4, 12), np.float32))
        network = Sequential(plain(), backend=DOUBLE, seed=1)
        data = np.ones((20, 12), np.float32), np.arange(20) % 3
        xn.fit(
            network,
            data,
            optimizer=xn.SGD(),
            epochs=3,
            batch_size=7,
            precision=precision,
            callbacks=[Look()],
        )
        assert {type(module) for module in seen} == {Operations}
        assert precisions == {precision}
        assert current().precision == "float32"
        before = pretended.computed.copy()
        network.predict(x)
        xn.evaluate(network, data)
        assert pretended.computed == before
        assert array_module(network.flat_parameters) is strict_cupy.xp
        seen.clear()
        gc.collect()
        assert pretended.handles == {}, "the network keeps no handle"


def test_a_training_with_another_precision_finds_the_same_buffers() -> None:
    with graphs_on_the_double():
        network = Sequential(plain(), backend=DOUBLE, seed=1)
        data = np.ones((20, 12), np.float32), np.arange(20) % 3
        sizes = []
        for precision in ("tf32", "float32", "bfloat16", "tf32"):
            xn.fit(network, data, optimizer=xn.SGD(), epochs=1, precision=precision)
            sizes.append(sum(layer.workspace.nbytes for layer in network.layers))
        assert len(set(sizes)) == 1


@reduced
def test_products_that_a_precision_is_not_about(precision: str) -> None:
    xp = strict_cupy.xp
    with graphs_on_the_double() as pretended:
        products = cublas.chosen(precision, DOUBLE, "float32")
        matrix = xp.asarray(np.arange(12, dtype=np.float32).reshape(3, 4))
        wide, stack = matrix.astype("float64"), matrix.reshape(1, 3, 4)
        with cublas.used(products):
            made = array_module(matrix)
            for a, b in ((matrix, matrix[0]), (matrix[:, 0].copy(), matrix), (wide, wide.T)):
                expected = xp.dot(a, b)
                assert made.dot(a, b).get().tolist() == expected.get().tolist()
            assert made.matmul(stack, matrix.T).shape == (1, 3, 3)
            assert pretended.computed == {}
            # Lying neither by rows nor by columns, and without an out.
            apart = xp.asarray(np.arange(24, dtype=np.float32).reshape(3, 8))[:, ::2]
            for product in (made.dot, made.matmul):
                assert product(apart, matrix.T).get().tolist() == (apart @ matrix.T).get().tolist()
            assert pretended.computed == {(PRECISIONS[precision], True): 2}
        array_module(matrix).dot(matrix, matrix.T)
        assert pretended.computed == {(PRECISIONS[precision], True): 2}


@reduced
def test_a_recorded_product_has_the_precision_too(precision: str) -> None:
    """As it is recorded, call by call, and by the handle of a graph."""
    xp = strict_cupy.xp
    with graphs_on_the_double() as pretended:
        a, out = xp.ones((2, 2), dtype="float32"), xp.zeros((2, 2), dtype="float32")
        with cublas.used(cublas.chosen(precision, DOUBLE, "float32")):
            (op,) = record(xp, lambda: array_module(a).dot(a, a, out=out))
        op.call()
        assert pretended.computed == {(PRECISIONS[precision], True): 2}
        stream = strict_graphs.Stream(non_blocking=True)
        products = Products(xp, stream, precision)
        with stream:
            products.call_of(op)()
        assert pretended.computed == {(PRECISIONS[precision], True): 3}
        assert out.get().tolist() == [[2, 2], [2, 2]]


# ---- float32 is float32 ----


def test_cupys_own_switch_is_off() -> None:
    """As when it is on in the environment."""
    script = (
        "from xpnet import backend; backend._be_exact(); from cupy import _core; "
        "print(_core.get_compute_type('float32'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"CUPY_TF32": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    from cupy._core._routines_linalg import COMPUTE_TYPE_FP32

    assert int(done.stdout) == COMPUTE_TYPE_FP32


def test_whoever_asks_for_a_gpu_gets_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 1)
    monkeypatch.setattr(cupy.cuda, "Device", strict_cupy.Device)
    monkeypatch.setattr("xpnet.backend._try_out", lambda _: None)
    monkeypatch.setattr("xpnet.backend._be_exact", lambda: asked.append("float32"))
    Backend("cuda")
    assert asked == ["float32"]


# ---- who is refused ----


def refused(match: str, backend: Backend = DOUBLE, **options: Any) -> None:
    dtype = options.pop("dtype", "float32")
    network = Sequential(plain(), backend=backend, dtype=dtype, seed=1)
    before = backend.to_host(network.flat_parameters).copy()
    data = np.ones((4, 12), dtype), np.arange(4) % 3
    with pytest.raises((ConfigError, BackendUnavailable), match=match) as caught:
        xn.fit(network, data, optimizer=xn.SGD(), epochs=1, **options)
    assert "\n" not in str(caught.value)
    assert backend.to_host(network.flat_parameters).tobytes() == before.tobytes()


@reduced
def test_where_it_cannot_be(precision: str) -> None:
    cpu = f"precision {precision} needs an NVIDIA GPU, found device cpu: use --device cuda"
    refused(cpu, Backend("cpu"), precision=precision)
    with graphs_on_the_double(capability="75"):
        old = f"precision {precision} needs compute capability 8.0, device cuda has 7.5: leave"
        refused(old, precision=precision)
    with graphs_on_the_double():
        refused("is of float32, found dtype float64", precision=precision, dtype="float64")
    with graphs_on_the_double(bindings=False):
        refused("cannot be had: the cuBLAS bindings cannot be imported", precision=precision)


def test_another_word() -> None:
    refused("precision must be one of float32, tf32, bfloat16, found 'half'", precision="half")


@reduced
def test_the_command_refuses_in_one_line(
    precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, found in (
        ([], "needs an NVIDIA GPU, found device cpu: use --device cuda, or leave precision out"),
        (["--device", "cuda", "--dtype", "float64"], "is of dtype float32, found dtype float64"),
    ):
        assert train.main(["--precision", precision, *flags]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"xpnet: error: precision: {precision} {found}")
        assert err.count("\n") == 1


# ---- what is recorded ----


def test_a_checkpoint_is_of_its_precision(tmp_path: Path) -> None:
    options: dict[str, Any] = {"checkpoints": xn.Checkpoints(tmp_path, "1 epoch")}
    with graphs_on_the_double():
        trained(precision="tf32", **options)
        with pytest.raises(CheckpointError, match="precision is tf32 there and float32 here"):
            trained(**options)


def test_a_run_tells_its_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the double, as if `--device cuda` had found it."""
    monkeypatch.setattr(train, "Backend", lambda _: DOUBLE)
    monkeypatch.setattr(SETTINGS, "graphs_enabled", False)
    run = tmp_path / "run"
    flags = ["--device", "cuda", "--precision", "bfloat16", "--epochs", "1", "--hidden", "8"]
    with graphs_on_the_double() as pretended:
        assert train.main([*flags, "--batch-size", "500", "--run", str(run)]) == 0
    assert asked_for(pretended) == {True: {PRECISIONS["bfloat16"]}, False: set()}
    assert config.read_settings(run)["precision"] == "bfloat16"
    assert json.loads((run / "metrics.json").read_text())["precision"] == "bfloat16"
    network = xn.load(run / "model.safetensors")
    assert network.flat_parameters.dtype == np.float32
    assert "bfloat16" not in json.dumps(network.metadata)
