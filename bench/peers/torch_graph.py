"""PyTorch's step recorded as a CUDA graph: one launch a step, from static arrays."""

from __future__ import annotations

from typing import Any

import torch

from bench.peers.torch_eager import Fused
from bench.workloads import Workload
from xpnet.backend import HostArray


class Graph(Fused):
    """As in the documentation of `torch.cuda.CUDAGraph`: warm up, capture, replay."""

    about = "torch.cuda.graph of gather, step and sums; fused optimizer"

    def __init__(self, workload: Workload, device: str) -> None:
        self.graph: Any = None
        super().__init__(workload, device)
        self.rows = torch.zeros(workload.batch, dtype=torch.int64, device=device)
        self._capture()

    def reset(self) -> None:
        """The initial weights; the moments of a captured optimizer become 0 where they are."""
        kept = self.optimizer if self.graph is not None else None
        capturable = {"capturable": True} if self.workload.optimizer == "adam" else {}
        self.options = Fused.options | capturable  # type: ignore[misc]
        super().reset()
        if kept is not None:
            self.optimizer = kept
            for state in kept.state.values():
                for value in state.values():
                    if isinstance(value, torch.Tensor):
                        value.zero_()

    def _whole_step(self) -> Any:
        if self.workload.steps == 1:
            return self.step(self.x, self.labels)
        x, labels = self.x.index_select(0, self.rows), self.labels.index_select(0, self.rows)
        return self.step(x, labels)

    def _capture(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._whole_step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.loss = self._whole_step()
        self.graph = graph

    def losses(self, rows: HostArray) -> list[float]:
        """The gate."""
        self.reset()
        found = []
        for batch in torch.from_numpy(rows).to(self.device):
            self.rows.copy_(batch)
            self.graph.replay()
            found.append(self.loss.item())
        return found

    def epoch(self) -> None:
        """A permutation, a replay for each of its slices, and one read of the sums."""
        self.total.zero_()
        self.hits.zero_()
        if self.workload.steps == 1:
            self.graph.replay()
        else:
            order = torch.randperm(len(self.x), device=self.device)
            for rows in order.split(self.workload.batch):
                self.rows.copy_(rows)
                self.graph.replay()
        self.total.item(), self.hits.item()
