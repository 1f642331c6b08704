"""`BatchNorm` on several ranks, each with a part of the batch, computes what one process does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from thread_ranks import on_ranks

import xpnet as xn
from xpnet.backend import Backend
from xpnet.distributed.group import Group, batch_of

ROWS = 7


def computed(layer: Any, x: np.ndarray, dy: np.ndarray, backend: Backend) -> dict[str, np.ndarray]:
    """`y`, `dx`, gradients and running statistics after a step of `layer`, which it gets ready."""
    draw = np.random.default_rng(2)

    def arrays(names: tuple[str, ...]) -> dict[str, Any]:
        return {name: backend.asarray(draw.uniform(0.5, 2, 3)) for name in names}

    values, gradients = arrays(("weight", "bias")), arrays(("weight", "bias"))
    statistics = arrays(("running_mean", "running_var"))
    layer.bind(values, gradients, statistics)
    found = {"y": layer.forward(backend.asarray(x), training=True)}
    found["dx"] = layer.backward(backend.asarray(dy))
    return {name: backend.to_host(a) for name, a in (found | gradients | statistics).items()}


@pytest.mark.parametrize(("kind", "shape"), [(xn.BatchNorm, ()), (xn.BatchNorm2d, (2, 5))])
def test_batch_norm_of_ranks_is_that_of_the_whole_batch(
    kind: type, shape: tuple[int, ...], backend: Backend
) -> None:
    x, dy = np.random.default_rng(1).standard_normal((2, ROWS, *shape, 3))
    whole = computed(kind(3), x, dy, backend)

    def part(group: Group) -> dict[str, np.ndarray]:
        rows = slice(0, 5) if group.rank == 0 else slice(5, ROWS)
        with batch_of(group, ROWS):
            return computed(kind(3), x[rows], dy[rows], backend)

    parts = on_ranks(2, part)
    # Sums of at most 70 numbers around 1 in another order: 70 roundings of 2^-53, a few times.
    close: dict[str, Any] = {"rtol": 0, "atol": 1e-13}
    for name in ("y", "dx"):
        np.testing.assert_allclose(np.concatenate([p[name] for p in parts]), whole[name], **close)
    for name in ("weight", "bias"):  # each rank's own, which are added later
        np.testing.assert_allclose(sum(p[name] for p in parts), whole[name], **close)
    for name in ("running_mean", "running_var"):
        assert np.array_equal(parts[0][name], parts[1][name])
        np.testing.assert_allclose(parts[0][name], whole[name], **close)
