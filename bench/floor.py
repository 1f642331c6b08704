"""The floor: a step's matrix products alone, into arrays made beforehand, and nothing else."""

from __future__ import annotations

import time
from typing import Any

from bench.peer import Peer
from bench.workloads import Workload
from xpnet.backend import Backend


class Floor(Peer):
    """`x W`, `xᵀ dz` and, but for the first layer, `dz Wᵀ`, for a batch in one piece."""

    about = "matmul(out=) of float32, weights (in, out) row-major; no dx for the first layer"
    gated = False

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__(workload, device)
        self.backend = Backend(device)
        self.xp = xp = self.backend.xp
        self.products: list[tuple[Any, Any, Any]] = []
        rows = xp.random.standard_normal
        backward = []
        for place, (weight, _) in enumerate(workload.weights()):
            count, (fan_in, fan_out) = workload.batch, weight.shape
            w = self.backend.asarray(weight)
            x = rows((count, fan_in)).astype("float32")
            self.products.append((x, w, xp.empty((count, fan_out), "float32")))
            if workload.predicts:
                continue
            dz = rows((count, fan_out)).astype("float32")
            products = [(x.T, dz, xp.empty((fan_in, fan_out), "float32"))]
            if place:
                products.append((dz, w.T, xp.empty((count, fan_in), "float32")))
            backward.append(products)
        for products in reversed(backward):
            self.products += products

    def step(self) -> None:
        """All products of one step."""
        matmul = self.xp.matmul
        for a, b, out in self.products:
            matmul(a, b, out=out)

    def repeat(self) -> float:
        """Seconds a step."""
        steps = self.workload.passes * self.workload.steps
        for _timed in (False, True):
            self.backend.synchronize()
            began = time.perf_counter()
            for _ in range(steps):
                self.step()
            self.backend.synchronize()
        return (time.perf_counter() - began) / steps
