"""Training from Python with scaled data, a learning rate schedule and early stopping.

The assertions at the end check the accuracy, and that a saved and loaded network is the same.

Run: `python examples/from_python.py`
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import xpnet as xn
from xpnet.data import Normalisation, load_dataset, split
from xpnet.schedules import Cosine

parts = split(load_dataset("digits"), validation=500, test=1000, seed=0)
scale = Normalisation.unit(parts.train)

network = xn.Sequential([xn.Linear(784, 128), xn.ReLU(), xn.Linear(128, 10)], seed=0)
data = {
    name: xn.DeviceData.of(part, scale, backend=network.backend, dtype=network.dtype)
    for name, part in (("train", parts.train), ("validation", parts.validation))
    if part is not None
}
steps = 10 * -(-len(parts.train) // 64)
history = xn.fit(
    network,
    data["train"],
    data["validation"],
    optimizer=xn.Adam(Cosine(2e-3, steps)),
    epochs=10,
    batch_size=64,
    callbacks=[xn.Progress(), xn.EarlyStopping(patience=3)],
)

x = scale.apply(parts.test.x, network.dtype)
accuracy = (network.predict(x) == parts.test.labels).mean()
print(f"test accuracy {100 * accuracy:.2f} %")
assert accuracy > 0.9
assert history.records[-1].loss < history.records[0].loss

with tempfile.TemporaryDirectory() as folder:
    xn.save(network, Path(folder) / "model.safetensors")
    again = xn.load(Path(folder) / "model.safetensors")
assert np.array_equal(again.forward(x), network.forward(x))
