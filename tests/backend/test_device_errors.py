"""A GPU that is not usable, out of memory or lost: one line that says what to do."""

from __future__ import annotations

import gc
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import cupy
import numpy as np
import pytest
import strict_cupy
from strict_graphs import graphs_on_the_double

import xpnet as xn
from xpnet.accel import cublas
from xpnet.accel.cuda_graph import _GraphStream
from xpnet.backend import Backend
from xpnet.backend.context import changed
from xpnet.cli import console
from xpnet.data import Normalisation
from xpnet.errors import BackendUnavailable, OutOfDeviceMemory, XpnetError
from xpnet.layers.base import Layer
from xpnet.network import Sequential
from xpnet.training import device_memory

CUDARuntimeError = cupy.cuda.runtime.CUDARuntimeError
OutOfMemoryError = cupy.cuda.memory.OutOfMemoryError
NO_CODE, BUSY, LOST, MEMORY = 209, 46, 719, 2
GIB = 2**30

# ---- not usable ----


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None, str], list[int]]:
    """`card(error, capability)`: two cards, on which the first computation raises `error`."""
    chosen: list[int] = []

    def put_in(error: Exception | None, capability: str = "90") -> list[int]:
        class Device:
            def __init__(self, number: int = 0) -> None:
                self.number = number
                self.compute_capability = capability

            def use(self) -> None:
                chosen.append(self.number)

        def compute(*_: Any, **__: Any) -> Any:
            if error is not None:
                raise error
            return np.full((2, 2), 2.0)

        monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 2)
        monkeypatch.setattr(cupy.cuda, "Device", Device)
        monkeypatch.setattr(cupy, "ones", compute)
        monkeypatch.setattr(cupy, "dot", compute)
        return chosen

    return put_in


def complaint(device: str = "cuda:1") -> str:
    with pytest.raises(BackendUnavailable) as caught:
        Backend(device)
    message = str(caught.value)
    assert "\n" not in message
    assert "device cuda:1" in message
    assert "--device cpu" in message
    return message


def test_a_card_that_computes(card: Any) -> None:
    chosen = card(None)
    assert Backend("cuda:1").device == "cuda:1"
    assert chosen == [1]


@pytest.mark.parametrize(
    "error",
    [
        CUDARuntimeError(NO_CODE),
        RuntimeError("nvrtc: error: invalid value for --gpu-architecture (-arch)\nkern.cu"),
    ],
)
def test_a_card_that_is_too_old(card: Any, error: Exception) -> None:
    card(error, "61")
    message = complaint()
    assert "compute capability 6.1" in message
    assert f"CuPy {cupy.__version__}" in message
    assert "cupy-cuda12x[ctk]" in message


@pytest.mark.parametrize(
    "error",
    [
        ImportError("Failure finding libnvrtc.so.13\n  listdir(...)"),
        RuntimeError("CuPy failed to load libcublas.so.13."),
        OSError("libnvrtc.so.13: cannot open shared object file"),
        CUDARuntimeError(BUSY),
    ],
)
def test_libraries_that_do_not_fit_together(card: Any, error: Exception) -> None:
    card(error)
    message = complaint()
    assert str(error).splitlines()[0].rstrip(".") in message
    assert "do not fit together" in message
    assert "pip install 'cupy-cuda13x[ctk]'" in message


def test_a_library_of_products_that_cannot_be_used(
    card: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CuPy computes products of vectors without cuBLAS, so a device is tried out with matrices."""
    card(None)

    class CUBLASError(RuntimeError):
        """As CuPy has it."""

    def dot(a: Any, b: Any) -> Any:
        if min(np.ndim(a), np.ndim(b)) > 1:
            raise CUBLASError("CUBLAS_STATUS_NOT_INITIALIZED")
        return np.dot(a, b)

    monkeypatch.setattr(cupy, "ones", np.ones)
    monkeypatch.setattr(cupy, "dot", dot)
    message = complaint()
    assert "(CUBLAS_STATUS_NOT_INITIALIZED)" in message
    assert "do not fit together" in message


def test_a_card_that_is_full(card: Any) -> None:
    card(OutOfMemoryError(512, 0, 0))
    message = complaint()
    assert "no memory left" in message
    assert "nvidia-smi" in message


def test_auto_takes_the_cpu_where_the_card_cannot_compute(card: Any) -> None:
    card(CUDARuntimeError(NO_CODE), "61")
    assert Backend("auto").device == "cpu"


# ---- in the middle of work ----


def layers(width: int = 20) -> list[Layer]:
    return [xn.Linear(12, width), xn.ReLU(), xn.Dropout(0.2), xn.Linear(width, 3)]


def fit(*, make: Callable[[], list[Layer]] = layers, rows: int = 50, **options: Any) -> Sequential:
    x = np.random.default_rng(5).integers(0, 256, (rows, 12), np.uint8)
    backend = Backend.of(strict_cupy.xp)
    network = Sequential(make(), backend=backend, seed=1)
    data = xn.DeviceData(
        x,
        x[:, :3].argmax(axis=1),
        backend=backend,
        dtype="float32",
        normalisation=Normalisation(1 / 255, 0.0),
    )
    xn.fit(network, data, optimizer=xn.SGD(), **({"epochs": 1, "batch_size": 16} | options))
    return network


class Failing(xn.ReLU):
    """Raises `error` in its first forward pass."""

    error: Exception | None = None

    def forward(self, x: Any, *, training: bool) -> Any:
        if self.error is not None:
            raise self.error
        return super().forward(x, training=training)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, int, int], None]:
    """`memory(free, held, used, limit)`: bytes of nobody, of CuPy's pool, of it in use, at most."""

    def say(free: int, held: int = 0, used: int = 0, limit: int = 0) -> None:
        runtime = types.SimpleNamespace(memGetInfo=lambda: (free, 80 * GIB))
        cuda = types.SimpleNamespace(**vars(strict_cupy.xp.cuda) | {"runtime": runtime})
        sizes = {"total_bytes": held, "used_bytes": used, "get_limit": limit}
        pool = types.SimpleNamespace(**{name: partial(int, size) for name, size in sizes.items()})
        monkeypatch.setattr(strict_cupy.xp, "cuda", cuda)
        monkeypatch.setattr(strict_cupy.xp, "get_default_memory_pool", lambda: pool, raising=False)

    return say


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """From now on `xp.maximum` of the double raises `error`."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(strict_cupy.xp, "maximum", fail)


def test_a_batch_that_does_not_fit_is_named_beside_one_that_does(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory(1_000_000, 3_000_000, 2_800_000)
    failing(monkeypatch, OutOfMemoryError(24 * GIB, 60 * GIB, 0))
    with pytest.raises(OutOfDeviceMemory) as caught:
        fit(batch_size=32)
    message = str(caught.value)
    assert "a batch of 32 does not fit into the 80.0 GiB of device cuda" in message
    assert "\n" not in message
    assert isinstance(caught.value, MemoryError)
    fits = advised(caught.value)
    # 1.2 MB, by some 800 bytes for each sample: 12 pixels, 20 units in three layers, 3 logits.
    assert fits % 64 == 0
    assert 1000 < fits < 2000


def advised(error: OutOfDeviceMemory) -> int:
    return int(str(error).split("batch_size of about ")[1].split()[0].replace(",", ""))


def test_the_advice_leaves_room_for_graphs(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their cuBLAS handle has a workspace of 32 MiB on this device, unless graphs are left out."""
    failing(monkeypatch, OutOfMemoryError(24 * GIB, 60 * GIB, 0))
    workspace = cublas.workspace_bytes(strict_cupy.xp)
    assert workspace == 32 * 2**20
    found = []
    for graphs, free in ((False, 1_000_000), (True, 1_000_000 + workspace), (True, 1_000_000)):
        memory(free)
        runtime = strict_cupy.xp.cuda.runtime
        with graphs_on_the_double(), changed(graphs_enabled=graphs):
            strict_cupy.xp.cuda.runtime = runtime
            with pytest.raises(OutOfDeviceMemory) as caught:
                fit(batch_size=48)
        found.append(str(caught.value))
    assert found[0] == found[1]
    assert "a batch_size of about " in found[0]
    assert "not even one sample fits" in found[2]


def test_the_advice_knows_the_limit_of_cupys_pool(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of `CUPY_GPU_MEMORY_LIMIT`, or `pool.set_limit()`."""
    failing(monkeypatch, OutOfMemoryError(24 * GIB, 60 * GIB, 0))
    found = []
    for sizes in ((1_000_000, 0, 0, 0), (40 * GIB, 5_000_000, 4_000_000, 5_000_000)):
        memory(*sizes)
        with pytest.raises(OutOfDeviceMemory) as caught:
            fit(batch_size=32)
        found.append(caught.value)
    assert advised(found[0]) == advised(found[1])
    assert "into the 0.0 GiB that CuPy's memory pool may take of device cuda" in str(found[1])


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_the_advised_batch_is_trained_with_graphs(
    request: pytest.FixtureRequest, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--device cuda`: 128 MiB of a device are found too small, and then large enough.

    A warning that graphs are left out would be an error. Without, on the double, memory has no
    limit, and it is shown that the fitting batch has graphs.
    """
    launched: list[int] = []
    captured = _GraphStream.capture

    def capture(self: _GraphStream, calls: Any) -> Any:
        graph = captured(self, calls)
        launched.append(len(calls))
        return graph

    monkeypatch.setattr(_GraphStream, "capture", capture)

    def train(backend: Backend, rows: int, batch_size: int) -> int:
        """Returns the bytes that a step takes for each sample."""
        x = backend.xp.zeros((rows, 12), dtype="float32")
        labels = backend.xp.zeros(rows, dtype="int64")
        network = Sequential(layers(300), backend=backend, seed=1)
        data = xn.DeviceData(x, labels, backend=backend, dtype="float32")
        options: dict[str, Any] = {"epochs": 4, "batch_size": batch_size, "precision": precision}
        xn.fit(network, data, optimizer=xn.SGD(), **options)
        return device_memory.bytes_per_sample(network, xn.SoftmaxCrossEntropy(), data)

    if request.config.getoption("--device") != "cuda":
        with graphs_on_the_double():
            train(Backend.of(strict_cupy.xp), 200, 100)
        assert len(launched) == 1
        return
    backend, pool = Backend("cuda"), cupy.get_default_memory_pool()
    per_sample, limit = train(backend, 200, 100), 128 * 2**20
    gc.collect()
    pool.free_all_blocks()
    pool.set_limit(pool.total_bytes() + limit)
    rows = 30_000
    # The handle of the graphs has a workspace, and so has the one of a precision.
    workspaces = (1 if precision == "float32" else 2) * cublas.workspace_bytes(backend.xp)
    most = (limit - workspaces) // per_sample
    try:
        with pytest.raises(OutOfDeviceMemory) as caught:
            train(backend, rows, rows)
        batch_size = advised(caught.value)
        del caught
        assert most / 2 <= batch_size <= most < rows
        # As in a new process: blocks of the failed attempt that are used in part cannot be freed.
        pool.free_all_blocks()
        launched.clear()
        train(backend, rows, batch_size)
    finally:
        pool.set_limit(0)
        pool.free_all_blocks()
    assert len(launched) >= 1


def test_what_fits_is_what_the_step_really_takes() -> None:
    """Measured on few rows of a like network, and compared with 40 and 640."""
    for make in (layers, lambda: [xn.Linear(12, 9), xn.BatchNorm(9), xn.GELU(), xn.Linear(9, 3)]):
        held = []
        for rows in (40, 640):
            x = np.zeros((rows, 12), np.uint8)
            network, loss = Sequential(make(), seed=1), xn.SoftmaxCrossEntropy()
            data = xn.DeviceData(
                x,
                np.zeros(rows, np.int64),
                backend=network.backend,
                dtype="float32",
                normalisation=Normalisation(1 / 255, 0.0),
            )
            per_sample = device_memory.bytes_per_sample(network, loss, data)
            batch, labels = data.batch(np.arange(rows))
            loss.forward(network.forward(batch, training=True), labels)
            network.backward(loss.backward())
            held.append(device_memory._held(network, loss, data))
        # The loss has a float64 for every 256 rows besides: 3 and 1 of them.
        assert held[1] - held[0] == 600 * per_sample + 8 * (3 - 1)


def test_layers_within_a_layer_take_as_much_as_outside() -> None:
    found = []
    for network in (Sequential(12, 9, "gelu", 3), Sequential(Sequential(12, 9, "gelu"), 3)):
        x, labels = np.zeros((8, 12), np.float32), np.zeros(8, np.int64)
        data = xn.DeviceData(x, labels, backend=network.backend, dtype="float32")
        found.append(device_memory.bytes_per_sample(network, xn.SoftmaxCrossEntropy(), data))
    assert found[0] == found[1] > 0


def test_not_even_one_sample_fits(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory(100)
    failing(monkeypatch, OutOfMemoryError(24 * GIB, 60 * GIB, 0))
    with pytest.raises(OutOfDeviceMemory, match="not even one sample fits: use smaller layers"):
        fit(batch_size=1)


def test_a_layer_of_ones_own_cannot_be_measured(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory(1_000_000)

    def make() -> list[Layer]:
        failing_layer = Failing()
        failing_layer.error = OutOfMemoryError(24 * GIB, 60 * GIB, 0)
        return [xn.Linear(12, 9), failing_layer, xn.Linear(9, 3)]

    with pytest.raises(OutOfDeviceMemory) as caught:
        fit(make=make, batch_size=None)
    assert str(caught.value).startswith("a batch of 50 does not fit into the memory of device cuda")
    assert str(caught.value).endswith("use a smaller batch_size")


def test_memory_of_the_host_is_another_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, MemoryError("Unable to allocate 3 TiB"))
    with pytest.raises(MemoryError, match="Unable") as caught:
        fit()
    assert not isinstance(caught.value, XpnetError)


@pytest.mark.parametrize("status", [LOST, 700, 214, 999])
def test_a_lost_device(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    error = CUDARuntimeError(status)
    failing(monkeypatch, error)
    with pytest.raises(BackendUnavailable) as caught:
        fit()
    message = str(caught.value)
    assert f"device cuda failed in the middle of work ({error})" in message
    assert "resume from a checkpoint" in message
    assert "\n" not in message
    assert caught.value.__cause__ is error


def test_other_errors_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, KeyError("x"))
    with pytest.raises(KeyError):
        fit()


def test_a_command_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def lose() -> int:
        raise CUDARuntimeError(LOST)

    def run_out() -> int:
        raise OutOfMemoryError(24 * GIB, 60 * GIB, 0)

    for action, expected in ((lose, "device cuda failed"), (run_out, "not enough memory")):
        assert console.run(action) == XpnetError.exit_code
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"xpnet: error: {expected}")
        assert err.count("\n") == 1

    def stumble() -> int:
        raise KeyError("x")

    with pytest.raises(KeyError):
        console.run(stumble)
