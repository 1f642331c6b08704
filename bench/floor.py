"""The floor: a step's matrix products alone, into arrays made beforehand, and nothing else.

On a GPU they are one CUDA graph, as in xpnet; a second,
lower floor is the launch of an empty graph.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy

from bench.peer import Peer, Unsupported
from bench.workloads import ImageLayer, Workload
from xpnet.accel.cuda_graph import Graphs
from xpnet.accel.recording import record
from xpnet.backend import Backend, HostArray, array_module
from xpnet.layers.convolution import COLUMNS


class Floor(Peer):
    """`x W`, `xᵀ dz` and, but for the first layer, `dz Wᵀ`.

    For a batch in one piece; of convolutions on a CPU for blocks of it.
    """

    about = (
        "matmul(out=) of float32, weights (in, out) row-major; no dx for the first layer; "
        "convolutions as products with windows that are gathered already"
    )
    takes_images = True
    gated = False

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__(workload, device)
        self.backend = Backend(device)
        self.xp = xp = self.backend.xp
        self.products: list[tuple[Any, Any, Any]] = []
        self.draw = numpy.random.default_rng(3)
        backward: list[list[tuple[Any, Any, Any]]] = []
        for image, (kernel, _) in zip(workload.convolutions, workload.kernels(), strict=True):
            forward, gradients = self._of_convolution(image, kernel, is_first=not backward)
            self.products += forward
            backward.append(gradients)
        for weight, _ in workload.weights():
            count, (fan_in, fan_out) = workload.batch, weight.shape
            w = self.backend.asarray(weight)
            x = self._drawn((count, fan_in))
            self.products.append((x, w, xp.empty((count, fan_out), "float32")))
            if workload.predicts:
                continue
            dz = self._drawn((count, fan_out))
            products = [(x.T, dz, xp.empty((fan_in, fan_out), "float32"))]
            if backward:
                products.append((dz, w.T, xp.empty((count, fan_in), "float32")))
            backward.append(products)
        for products in reversed(backward):
            self.products += products
        self.call: Any = self.step
        if device != "cpu":
            self.call = Graphs(xp).of(record(xp, self.step))
            for _ in range(2):  # warm-up, capture
                self.call()

    def _of_convolution(
        self, image: ImageLayer, kernel: HostArray, is_first: bool
    ) -> tuple[list[Any], list[Any]]:
        """The products of a convolution on gathered windows, forward and backward.

        On the CPU in blocks of samples, as in xpnet: their windows are at most `COLUMNS` numbers.
        """
        xp, count = self.backend.xp, self.workload.batch
        fan_in, fan_out = math.prod(kernel.shape[:3]), kernel.shape[3]
        places = math.prod(image.output[:2])
        samples = max(1, min(count, COLUMNS // (places * fan_in)))
        if self.device != "cpu":
            samples = count
        w = self.backend.asarray(kernel.reshape(fan_in, fan_out))
        windows, dz = (
            self._drawn(shape) for shape in ((samples * places, fan_in), (count * places, fan_out))
        )
        dw, y = xp.empty(w.shape, "float32"), xp.empty(dz.shape, "float32")
        forward, backward = [], []
        for start in range(0, count * places, samples * places):
            rows = slice(start, start + samples * places)
            block = windows[: len(y[rows])]
            forward.append((block, w, y[rows]))
            backward.append((block.T, dz[rows], dw))
            if not is_first:
                backward.append((dz[rows], w.T, block))
        return forward, backward

    def _drawn(self, shape: tuple[int, int]) -> Any:
        return self.backend.asarray(self.draw.standard_normal(shape, dtype=numpy.float32))

    def step(self) -> None:
        """All products of one step."""
        matmul = array_module(self.products[0][0]).matmul
        for a, b, out in self.products:
            matmul(a, b, out=out)

    def repeat(self) -> float:
        """Seconds a step."""
        steps, run = self.workload.passes * self.workload.steps, self.call
        for _timed in (False, True):
            self.backend.synchronize()
            began = time.perf_counter()
            for _ in range(steps):
                run()
            self.backend.synchronize()
        return (time.perf_counter() - began) / steps


class Launch(Floor):
    """An empty graph, launched once a step."""

    about = "a CUDA graph with nothing in it, launched once a step"

    @classmethod
    def adapt(cls, workload: Workload) -> tuple[Workload, str]:
        """Predictions are launched call by call."""
        if workload.predicts:
            raise Unsupported("predictions are not a graph")
        return workload, ""

    def __init__(self, workload: Workload, device: str) -> None:
        Peer.__init__(self, workload, device)
        self.backend = Backend(device)
        cuda = self.backend.xp.cuda
        with self.backend.current():
            stream = cuda.Stream(non_blocking=True)
            with stream:
                stream.begin_capture()
                graph = stream.end_capture()
            self.call = graph.launch
