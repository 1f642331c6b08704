"""What the pretended device promises: it reports what a GPU would.

Each program runs in a process of its own, because an error of a kernel stays until the process
ends, and because modes are environment variables. `nox -s cupy` runs these tests; their file has
another name than other tests, since `python -m pytest` has no pretended device.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

HEAD = """
import cupy as cp, numpy as np
runtime = cp.cuda.runtime
"""


def run(program: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """The program with `PRETENDED_DEVICE_<name>` for each setting."""
    environment = {k: v for k, v in os.environ.items() if k == "PRETENDED_DEVICE_BUILD"}
    modes = {f"PRETENDED_DEVICE_{name}": str(value) for name, value in settings.items()}
    rest = {k: v for k, v in os.environ.items() if not k.startswith("PRETENDED_DEVICE_")}
    return subprocess.run(
        [sys.executable, "-c", HEAD + program],
        env=rest | environment | modes,
        capture_output=True,
        text=True,
        check=False,
    )


def printed(program: str, **settings: Any) -> str:
    done = run(program, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def reported(program: str, error: str, line: str, **settings: Any) -> None:
    """The program ends with the error, after a line that says why."""
    done = run(program, **settings)
    assert done.returncode != 0
    assert error in done.stderr.splitlines()[-1]
    assert any(line in text for text in done.stderr.splitlines()), done.stderr
    assert "pretended device" in done.stderr


def test_its_name_says_what_it_is() -> None:
    assert printed("print(runtime.getDeviceProperties(0)['name'])").count("pretended device") == 1
    errors = "try: runtime.setDevice(3)\nexcept runtime.CUDARuntimeError as e: print(e)"
    assert "pretended device" in printed(errors)


# ---- kernels ----

GATHER = """
gather = cp.RawKernel(r'''
extern "C" __global__ void gather(const float* x, const long long* index, float* y) {
  y[threadIdx.x] = x[index[threadIdx.x]];
}''', "gather")
x, y = cp.ones(64, "f4"), cp.zeros(4, "f4")
gather((1,), (4,), (x, cp.asarray([0, 1, 2, {last}]), y))
cp.cuda.Device().synchronize()
print(float(y.sum()))
"""


def test_a_gather_inside_of_an_array_is_right() -> None:
    assert printed(GATHER.replace("{last}", "63")) == "4.0"


@pytest.mark.parametrize("index", [1 << 12, -(1 << 14)])
def test_an_index_outside_of_memory_is_an_illegal_address(index: int) -> None:
    program = GATHER.replace("{last}", str(index))
    place = "kernel gather, block (0, 0, 0), thread (3, 0, 0): byte"
    reported(program, "cudaErrorIllegalAddress", place, POOL=0)


def test_what_is_read_just_outside_of_an_array_is_no_number() -> None:
    program = GATHER.replace("x, y = cp.ones(64", "x, y = cp.ones(63").replace("{last}", "63")
    assert printed(program, POOL=0) == "nan"


def test_a_write_just_outside_of_an_array_is_reported() -> None:
    program = """
put = cp.RawKernel('extern "C" __global__ void put(float* x) { x[7] = 1; }', "put")
put((1,), (1,), (cp.zeros(7, "f4"),))
cp.cuda.Device().synchronize()
"""
    reported(program, "cudaErrorIllegalAddress", "beyond the ends of an allocation of 28", POOL=0)


def test_an_error_of_a_kernel_stays() -> None:
    program = GATHER.replace("{last}", str(1 << 12)).replace(
        "cp.cuda.Device().synchronize()",
        """
for _ in range(2):
    try: cp.cuda.Device().synchronize()
    except runtime.CUDARuntimeError as error: print(str(error).split(":")[0])
raise SystemExit
""",
    )
    assert printed(program, POOL=0).split() == ["cudaErrorIllegalAddress"] * 2


def test_a_kernel_refuses_memory_of_the_host() -> None:
    program = """
fill = cp.RawKernel('extern "C" __global__ void fill(float* x) { x[0] = 1; }', "fill")
host = np.zeros(4, "f4")
fill((1,), (1,), (host.ctypes.data,))
cp.cuda.Device().synchronize()
"""
    line = "argument 0 of kernel fill points to no device memory"
    reported(program, "cudaErrorIllegalAddress", line)


def test_freed_memory_is_gone() -> None:
    program = """
fill = cp.RawKernel('extern "C" __global__ void fill(float* x) { x[0] = 1; }', "fill")
x = cp.zeros(4, "f4")
address = x.data.ptr
del x
fill((1,), (1,), (address,))
cp.cuda.Device().synchronize()
"""
    reported(program, "cudaErrorIllegalAddress", "freed device memory of 16 bytes", POOL=0)


def test_an_invalid_kernel_is_refused_by_nvrtc() -> None:
    """The C++ compiler would take the standard library's name."""
    program = """
text = 'extern "C" __global__ void f(float* x) { x[0] = std::abs(x[0]); }'
cp.RawKernel(text, "f")((1,), (1,), (cp.zeros(4, "f4"),))
"""
    done = run(program)
    assert done.returncode != 0
    assert "NVRTC" in done.stderr or "nvrtc" in done.stderr


def test_too_many_threads_are_refused() -> None:
    program = """
f = cp.RawKernel('extern "C" __global__ void f(float* x) {}', "f")
f((1,), (1025,), (cp.zeros(4, "f4"),))
"""
    reported(program, "CUDA_ERROR_INVALID_VALUE", "launch of f refused")


# ---- order ----

TWO_STREAMS = """
a, b = (cp.cuda.Stream(non_blocking=True) for _ in range(2))
x = cp.zeros(8)
cp.cuda.Device().synchronize()
with a:
    x += 1
    event = a.record()
with b:
    {wait}
    y = x * 2
b.synchronize()
print(float(cp.asnumpy(y, stream=b)[0]))
"""


@pytest.mark.parametrize("mode", [1, 2])
def test_what_nothing_orders_comes_as_late_as_it_may(mode: int) -> None:
    ordered, unordered = "b.wait_event(event)", "pass"
    assert printed(TWO_STREAMS.replace("{wait}", ordered), ASYNC=mode) == "2.0"
    assert printed(TWO_STREAMS.replace("{wait}", unordered), ASYNC=mode) == "0.0"


def test_blocks_in_falling_order_show_a_race() -> None:
    program = """
f = cp.RawKernel('extern "C" __global__ void f(int* x) { x[0] = blockIdx.x; }', "f")
x = cp.zeros(1, "i4")
f((5,), (1,), (x,))
print(int(x[0]))
"""
    assert [printed(program, ORDER=order) for order in (0, 1)] == ["4", "0"]


def test_a_kernel_that_reads_before_a_barrier_reads_what_is_not_there() -> None:
    program = """
text = '''extern "C" __global__ void f(int* y) {
  extern __shared__ int part[];
  part[threadIdx.x] = threadIdx.x;
  BARRIER
  y[threadIdx.x] = part[blockDim.x - 1 - threadIdx.x];
}'''
for barrier in ("", "__syncthreads();"):
    y = cp.zeros(4, "i4")
    cp.RawKernel(text.replace("BARRIER", barrier), "f")((1,), (4,), (y,), shared_mem=16)
    print(y.tolist())
"""
    assert printed(program).splitlines() == ["[-1, -1, 1, 0]", "[3, 2, 1, 0]"]


# ---- streams, events and graphs ----

GRAPH = """
stream = cp.cuda.Stream(non_blocking=True)
x, y = cp.ones(8), cp.zeros(8)
cp.multiply(x, 2, out=y)
y.fill(0)
cp.cuda.Device().synchronize()
with stream:
    stream.begin_capture()
    cp.multiply(x, 2, out=y)
    {during}
    graph = stream.end_capture()
{between}
graph.launch(stream)
stream.synchronize()
print(float(y.sum()))
"""


def graph(during: str = "pass", between: str = "") -> str:
    return GRAPH.replace("{during}", during).replace("{between}", between)


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_a_graph_runs_when_it_is_launched(mode: int) -> None:
    assert printed(graph(), ASYNC=mode) == "16.0"
    assert printed(graph(between="print(float(y.sum()))"), ASYNC=mode).split() == ["0.0", "16.0"]


@pytest.mark.parametrize("during", ["stream.synchronize()", "cp.cuda.Device().synchronize()"])
def test_a_capture_refuses_to_wait(during: str) -> None:
    done = run(graph(during))
    assert done.returncode != 0
    assert "cudaErrorStreamCaptureUnsupported" in done.stderr


def test_a_capture_that_was_refused_something_makes_no_graph() -> None:
    during = "\n    try: stream.synchronize()\n    except runtime.CUDARuntimeError: pass"
    done = run(graph(during))
    assert "cudaErrorStreamCaptureInvalidated" in done.stderr.splitlines()[-1]


def test_a_graph_whose_memory_was_freed() -> None:
    reported(graph(between="del x"), "cudaErrorIllegalAddress", "of a graph", POOL=0)


@pytest.mark.parametrize(
    ("program", "line"),
    [
        (
            "h = runtime.streamCreate(); runtime.streamDestroy(h)\nruntime.streamSynchronize(h)",
            "st",
        ),
        ("h = runtime.eventCreate(); runtime.eventDestroy(h)\nruntime.eventSynchronize(h)", "ev"),
    ],
)
def test_what_was_destroyed_cannot_be_used(program: str, line: str) -> None:
    word = {"st": "stream", "ev": "event"}[line]
    reported(program, "cudaErrorInvalidResourceHandle", f"pretended device: {word} 0x")


# ---- memory and libraries ----


def test_memory_has_a_limit() -> None:
    program = "cp.zeros(1 << 20, 'u1')\nprint('fits')\ncp.zeros(1 << 21, 'u1')"
    done = run(program, MEMORY=3 << 19)
    assert done.stdout.strip() == "fits"
    assert "OutOfMemoryError" in done.stderr.splitlines()[-1]


def test_new_memory_is_no_number() -> None:
    assert printed("print(bool(cp.isnan(cp.empty(9)).all()))", POOL=0) == "True"


def test_a_missing_library_is_missing() -> None:
    program = "a = cp.ones((2, 2)); print(float((a + a).sum()))\na @ a"
    done = run(program, WITHOUT="cublas")
    assert done.returncode != 0
    assert "cublas" in done.stderr


def test_no_device() -> None:
    program = "import os\nos.environ['CUDA_VISIBLE_DEVICES'] = '-1'\ncp.zeros(1)"
    done = run(program)
    assert "cudaErrorNoDevice" in done.stderr.splitlines()[-1]


# ---- arithmetic ----


def test_orders_of_summation_differ_by_rounding() -> None:
    program = """
a = cp.asarray(np.random.default_rng(0).standard_normal((40, 400)), "f4")
exact = a.astype(float) @ a.T.astype(float)
print((a @ a.T).get().tobytes().hex(), float(abs(a @ a.T - exact).max()))
"""
    found = [printed(program, SUM=order).split() for order in range(4)]
    assert len({bits for bits, _ in found}) == 4
    # Of 400 products of standard normal numbers: 400 · 2**-24 · the largest sum of magnitudes.
    assert all(float(error) < 400 * 2**-24 * 600 for _, error in found)


def test_functions_are_off_by_some_units() -> None:
    program = "print(*cp.exp(cp.linspace(0.1, 3, 50, dtype='f4')).view('i4').tolist())"
    exact, off = (
        [int(number) for number in printed(program, ULP=units).split()] for units in (0, 2)
    )
    assert {abs(a - b) for a, b in zip(exact, off, strict=True)} == {0, 1, 2}


def test_denormal_numbers_are_flushed() -> None:
    program = "print(float((cp.asarray([1e-30], 'f4') * cp.float32(1e-10))[0]) > 0)"
    assert [printed(program, FTZ=flush) for flush in (1, 0)] == ["False", "True"]
