"""`torch.compile`: forward pass, loss, hits and their backward pass in generated C++."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from bench.peers.torch_eager import Eager
from bench.workloads import Workload


class Reduced(Eager):
    """The same for a GPU, its pieces as CUDA graphs; the optimizer, fused, follows them."""

    about = "torch.compile(mode='reduce-overhead') of network and loss, fused=True, index_select"
    options: ClassVar[dict[str, Any]] = {"fused": True}

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__(workload, device)
        torch.compiler.reset()
        how: Any = {"dynamic": False, "mode": "reduce-overhead"}
        if workload.predicts:
            self.network = torch.compile(self.network, **how)  # type: ignore[assignment]
        else:
            self.forward = torch.compile(self.forward, **how)  # type: ignore[method-assign]

    def step(self, x: Any, labels: Any) -> Any:
        """One update; it may overwrite what the previous one returned."""
        torch.compiler.cudagraph_mark_step_begin()
        return super().step(x, labels)

    def predict(self, x: Any) -> Any:
        """Logits; as above."""
        torch.compiler.cudagraph_mark_step_begin()
        return super().predict(x)


class Compiled(Eager):
    """The network with its loss compiled for fixed shapes, and the fused optimizer."""

    about = "inductor's C++ (needs a compiler), fused=True, index_select batches"
    options: ClassVar[dict[str, Any]] = {"fused": True}

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__(workload, device)
        torch.compiler.reset()
        if workload.predicts:
            self.network = torch.compile(self.network, dynamic=False)  # type: ignore[assignment]
        else:
            self.forward = torch.compile(self.forward, dynamic=False)  # type: ignore[method-assign]
