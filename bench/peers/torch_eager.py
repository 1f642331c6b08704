"""PyTorch as its users write it, without what slows it down (`DataLoader`, reading the loss)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from bench.peer import Peer, Unsupported
from bench.workloads import EPSILON, SIDE, Workload
from xpnet.backend import HostArray

ACTIVATIONS: dict[str, Any] = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}


class Eager(Peer):
    """Eager mode: batches by `index_select`, loss and hits added up on the device."""

    about = "plain optimizer, index_select batches, no DataLoader"
    options: ClassVar[dict[str, Any]] = {}
    takes_images = True
    memory_format = torch.contiguous_format

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__(workload, device)
        if ":" in device:
            torch.cuda.set_device(device)
        layers = self._image_layers()
        for (weight, _), name in zip(workload.weights(), (*workload.activations, ""), strict=True):
            layers.append(torch.nn.Linear(*weight.shape))
            if name:
                layers.append(ACTIVATIONS[name]())
                if workload.dropout:
                    layers.append(torch.nn.Dropout(workload.dropout))
        self.network = torch.nn.Sequential(*layers).to(device, memory_format=self.memory_format)
        kinds = torch.nn.Conv2d, torch.nn.Linear
        self.convolutions, self.linear = (
            [layer for layer in layers if isinstance(layer, kind)] for kind in kinds
        )
        self.reset()
        if workload.predicts:
            self.network.eval()
            return
        x, labels = workload.data()
        self.x, self.labels = torch.from_numpy(x).to(device), torch.from_numpy(labels).to(device)
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self.hits = torch.zeros((), dtype=torch.int64, device=device)

    def _image_layers(self) -> list[Any]:
        images = self.workload.images
        if not images:
            return []
        layers: list[Any] = [_Images(self.memory_format)]
        for image in images:
            layer = image.layer
            if layer.kind == "conv":
                sizes = image.input[2], layer.channels, layer.kernel_size, layer.stride
                layers.append(torch.nn.Conv2d(*sizes, layer.padding))
            else:
                layers.append(torch.nn.MaxPool2d(layer.kernel_size, layer.stride))
            if image.relu:
                layers.append(torch.nn.ReLU())
        return [*layers, torch.nn.Flatten()]

    def reset(self) -> None:
        """The initial weights and a new optimizer."""
        with torch.no_grad():
            for layer, (kernel, bias) in zip(
                self.convolutions, self.workload.kernels(), strict=True
            ):
                layer.weight.copy_(torch.from_numpy(kernel.transpose(3, 2, 0, 1)))
                layer.bias.copy_(torch.from_numpy(bias))
            for layer, (weight, bias) in zip(self.linear, self.workload.weights(), strict=True):
                layer.weight.copy_(torch.from_numpy(weight.T))
                layer.bias.copy_(torch.from_numpy(bias))
        rate, parameters = self.workload.rate, list(self.network.parameters())
        if self.workload.optimizer == "adam":
            self.optimizer: Any = torch.optim.Adam(parameters, lr=rate, eps=EPSILON, **self.options)
        elif not self.workload.predicts:
            momentum = 0.9 if self.workload.optimizer == "momentum" else 0.0
            self.optimizer = torch.optim.SGD(parameters, lr=rate, momentum=momentum, **self.options)

    def forward(self, x: Any, labels: Any) -> tuple[Any, Any]:
        """Mean loss and hits of a batch."""
        logits = self.network(x)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        return loss, (logits.argmax(1) == labels).sum()

    def step(self, x: Any, labels: Any) -> Any:
        """One update; the loss before it."""
        loss, hits = self.forward(x, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.total += loss.detach()
        self.hits += hits
        return loss

    def losses(self, rows: HostArray) -> list[float]:
        """The gate."""
        self.reset()
        batches = torch.from_numpy(rows).to(self.device)
        return [self.step(self.x[batch], self.labels[batch]).item() for batch in batches]

    def epoch(self) -> None:
        """A permutation, a step for each of its slices, and one read of the sums."""
        self.total.zero_()
        self.hits.zero_()
        if self.workload.steps == 1:
            self.step(self.x, self.labels)
        else:
            order = torch.randperm(len(self.x), device=self.device)
            for rows in order.split(self.workload.batch):
                self.step(self.x.index_select(0, rows), self.labels.index_select(0, rows))
        self.total.item(), self.hits.item()

    def predict(self, x: Any) -> Any:
        """Logits, without autograd."""
        with torch.inference_mode():
            logits = self.network(x)
        self.synchronise()
        return logits

    def samples(self, x: HostArray) -> Any:
        """`x` on the device."""
        return torch.from_numpy(x).to(self.device)

    def to_host(self, outputs: Any) -> HostArray:
        """Logits as a NumPy array."""
        host: HostArray = outputs.cpu().numpy()
        return host

    def synchronise(self) -> None:
        """Wait for the GPU."""
        if self.device != "cpu":
            torch.cuda.synchronize()


class _Images(torch.nn.Module):
    """Rows of pixels as images `(N, 1, SIDE, SIDE)`, in a memory format."""

    def __init__(self, memory_format: Any) -> None:
        super().__init__()
        self.memory_format = memory_format

    def forward(self, x: Any) -> Any:
        """`(N, pixels) -> (N, 1, SIDE, SIDE)`."""
        return x.view(-1, 1, SIDE, SIDE).contiguous(memory_format=self.memory_format)


class Fused(Eager):
    """With the optimizers' fused kernels."""

    about = "fused=True, index_select batches, no DataLoader"
    options: ClassVar[dict[str, Any]] = {"fused": True}

    @classmethod
    def adapt(cls, workload: Workload) -> tuple[Workload, str]:
        """Prediction has no optimizer."""
        _need_training(workload)
        return workload, ""


class ChannelsLast(Fused):
    """With the memory format that PyTorch recommends for convolutions on a CPU."""

    about = "fused=True, memory_format=torch.channels_last, index_select batches"
    memory_format = torch.channels_last

    @classmethod
    def adapt(cls, workload: Workload) -> tuple[Workload, str]:
        """Only images have channels."""
        if not workload.conv:
            raise Unsupported("there are no images")
        return workload, ""


def _need_training(workload: Workload) -> None:
    if workload.predicts:
        raise Unsupported("the same as PyTorch eager in prediction")
