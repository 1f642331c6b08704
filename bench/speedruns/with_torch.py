"""`python -m bench.speedruns.with_torch SETTINGS SEED FOLDER`: prints the test accuracy.

Pixels are converted to float32 once; the optimizer is fused; without `torch.compile`, which takes
longer than the whole training.
"""

from __future__ import annotations

import sys

import torch
from torch import nn

from bench.speedruns.data import rates, read, read_settings


def main(path: str, seed: str, folder: str, cache: str = "") -> None:
    """Train and test; there is no compiled code to keep in `cache`."""
    settings = read_settings(path)
    torch.manual_seed(int(seed))
    x, labels = (torch.from_numpy(array.copy()) for array in read(folder, "train"))
    x = x.float().div_(255)
    layers: list[nn.Module] = []
    features = x.shape[1]
    for width in settings["hidden"]:
        linear = nn.Linear(features, width)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
        features = width
    last = nn.Linear(features, 10)
    nn.init.kaiming_normal_(last.weight, nonlinearity="relu")
    nn.init.zeros_(last.bias)
    network = nn.Sequential(*layers, last)
    decayed = [module.weight for module in network if isinstance(module, nn.Linear)]
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
