"""The end-to-end task as users of PyTorch and scikit-learn write it: yields test accuracies."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy

from xpnet.data import Splits


def with_torch(splits: Splits, hidden: tuple[int, ...], seed: int, device: str) -> Iterator[float]:
    """Pixels kept as float32, fused Adam, batches by `index_select`."""
    import torch

    torch.manual_seed(seed)
    x = torch.from_numpy(splits.train.x).to(device).float().div_(255)
    labels = torch.from_numpy(splits.train.labels).to(device)
    test_x = torch.from_numpy(splits.test.x).to(device).float().div_(255)
    test_labels = torch.from_numpy(splits.test.labels).to(device)
    layers: list[torch.nn.Module] = []
    features = x.shape[1]
    for width in hidden:
        layers += [torch.nn.Linear(features, width), torch.nn.ReLU()]
        features = width
    network = torch.nn.Sequential(*layers, torch.nn.Linear(features, 10)).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    while True:
        for rows in torch.randperm(len(x), device=device).split(128):
            logits = network(x.index_select(0, rows))
            loss = torch.nn.functional.cross_entropy(logits, labels.index_select(0, rows))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        with torch.inference_mode():
            yield (network(test_x).argmax(1) == test_labels).float().mean().item()


def with_sklearn(
    splits: Splits, hidden: tuple[int, ...], seed: int, device: str
) -> Iterator[float]:
    """`partial_fit` an epoch at a time, float32, no L2; on the CPU; `device` is not used."""
    from sklearn.neural_network import MLPClassifier

    x = splits.train.x.astype(numpy.float32) / numpy.float32(255)
    test_x = splits.test.x.astype(numpy.float32) / numpy.float32(255)
    model = MLPClassifier(
        hidden_layer_sizes=hidden,
        solver="adam",
        learning_rate_init=1e-3,
        alpha=0.0,
        batch_size=128,
        random_state=seed,
    )
    while True:
        model.partial_fit(x, splits.train.labels, classes=numpy.arange(10))
        yield float(model.score(test_x, splits.test.labels))


Trainer = Callable[[Splits, tuple[int, ...], int, str], Iterator[float]]
TRAINERS: dict[str, Trainer] = {"torch": with_torch, "sklearn": with_sklearn}
MODULES = {"torch": "torch", "sklearn": "sklearn.neural_network"}
