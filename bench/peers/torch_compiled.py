"""`torch.compile`: forward pass, loss, hits and their backward pass in generated C++."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from bench.peers.torch_eager import Eager
from bench.workloads import Workload


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
