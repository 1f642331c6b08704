"""`python -m bench.speedruns.with_torch SETTINGS SEED FOLDER`: prints the test accuracy.

Pixels are converted to float32 once; the optimizer is fused; without `torch.compile`, which takes
longer than the whole training. Images are in the memory format `channels_last`, in which PyTorch is
fastest on a CPU (`bench/results/cpu.md`, W7).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bench.speedruns.data import rates, read, read_settings


class Images(nn.Module):
    """Rows of pixels as images of one channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(N, 1, 28, 28)`."""
        return x.view(-1, 1, 28, 28).contiguous(memory_format=torch.channels_last)


def image_layers(names: Sequence[str]) -> list[nn.Module]:
    """The layers of `16k5`, for 16 channels and a 5 x 5 kernel, and `pool`, from rows to rows.

    Max pooling comes before the ReLU of its convolution, as in xpnet: the values are the same.
    """
    layers: list[nn.Module] = [Images()]
    channels = 1
    for name, following in zip(names, [*names[1:], ""], strict=True):
        if name == "pool":
            layers += [nn.MaxPool2d(2), nn.ReLU()]
            continue
        found = re.fullmatch(r"(\d+)k(\d+)", name)
        if found is None:
            raise ValueError(f"conv: {name} is not a layer that this program knows")
        layers.append(nn.Conv2d(channels, int(found[1]), int(found[2])))
        layers += [] if following == "pool" else [nn.ReLU()]
        channels = int(found[1])
    return [*layers, nn.Flatten()]


def initialise(layer: nn.Module) -> None:
    """He's normal weights and biases of 0."""
    if isinstance(layer, nn.Linear | nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)


def build(settings: dict[str, Any]) -> nn.Sequential:
    """The network of the settings."""
    layers = image_layers(settings["conv"]) if settings["conv"] else []
    with torch.no_grad():
        features = nn.Sequential(*layers)(torch.zeros(1, 784)).shape[1]
    for width in settings["hidden"]:
        layers += [nn.Linear(features, width), nn.ReLU()]
        features = width
    network = nn.Sequential(*layers, nn.Linear(features, 10)).apply(initialise)
    return network.to(memory_format=torch.channels_last) if settings["conv"] else network


def main(path: str, seed: str, folder: str, cache: str = "") -> None:
    """Train and test; there is no compiled code to keep in `cache`."""
    settings = read_settings(path, optional=("conv",))
    torch.manual_seed(int(seed))
    x, labels = (torch.from_numpy(array.copy()) for array in read(folder, "train"))
    x = x.float().div_(255)
    network = build(settings)
    decayed = [layer.weight for layer in network if isinstance(layer, nn.Linear | nn.Conv2d)]
    others = [p for p in network.parameters() if all(p is not one for one in decayed)]
    groups = [
        {"params": decayed, "weight_decay": settings["weight_decay"]},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=settings["learning_rate"],
        betas=(settings["beta1"], settings["beta2"]),
        fused=True,
    )
    size, epochs = settings["batch_size"], settings["epochs"]
    rate = iter(rates(settings, epochs * -(-len(x) // size)).tolist())
    smoothing = settings["label_smoothing"]
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(size):
            logits = network(x.index_select(0, rows))
            loss = nn.functional.cross_entropy(
                logits, labels.index_select(0, rows), label_smoothing=smoothing
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            now = next(rate)
            for group in optimizer.param_groups:
                group["lr"] = now
            optimizer.step()
    test_x, test_labels = (torch.from_numpy(array.copy()) for array in read(folder, "t10k"))
    with torch.inference_mode():
        hits = network(test_x.float().div_(255)).argmax(1) == test_labels
    print(hits.float().mean().item())


if __name__ == "__main__":
    main(*sys.argv[1:])
