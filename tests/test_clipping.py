"""Clipping by the norm: PyTorch's numbers, no wait, no allocation, and the same bits replayed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import strict_cupy
import torch
from cases import error
from thread_settings import SETTINGS

import xpnet as xn
from xpnet.backend import Backend
from xpnet.errors import ConfigError
from xpnet.network import Sequential
from xpnet.optimizers.clipping import ClipNorm


def gradient(size: int = 1000, scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(2).standard_normal(size)


@pytest.mark.parametrize("limit", [1e-3, 0.7, 31.0, 33.0, 1e3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pytorch_clips_the_same(
    dtype: str, limit: float, backend: Backend, compared: Callable[[str], None]
) -> None:
    """The norm is 31.4: some limits lie below, some above."""
    host = gradient().astype(dtype)
    # Several parameters, since PyTorch takes the norm of norms.
    peers = [torch.nn.Parameter(torch.zeros(250, dtype=getattr(torch, dtype))) for _ in range(4)]
    for peer, part in zip(peers, np.split(host, 4), strict=True):
        peer.grad = torch.from_numpy(part.copy())
    torch.nn.utils.clip_grad_norm_(peers, limit)
    expected = np.concatenate([peer.grad.numpy() for peer in peers])
    gradients = backend.asarray(host)
    ClipNorm(limit)(gradients)
    found = backend.to_host(gradients)
    assert found.dtype == dtype
    assert error(found, expected) <= (1e-12 if dtype == "float64" else 1e-6)
    norm = float(np.linalg.norm(found.astype(np.float64)))
    assert norm <= limit * (1 + 1e-6)
    if limit > 32:
        assert np.array_equal(found, host)
    compared("ClipNorm")


def test_zero_stays_zero_and_what_is_not_finite_spreads(backend: Backend) -> None:
    gradients = backend.zeros(5, "float64")
    ClipNorm(1.0)(gradients)
    assert backend.to_host(gradients).tolist() == [0.0] * 5
    gradients = backend.asarray(np.array([1.0, math.nan, 2.0]))
    ClipNorm(1.0)(gradients)
    assert np.isnan(backend.to_host(gradients)).all()
    with np.errstate(invalid="ignore"):
        gradients = backend.asarray(np.array([1.0, math.inf, 2.0]))
        ClipNorm(1.0)(gradients)
    assert not np.isfinite(backend.to_host(gradients)).all()


def test_a_call_neither_waits_nor_allocates(double: Backend) -> None:
    clip, gradients = ClipNorm(0.5), double.asarray(gradient().astype(np.float32))
    clip(gradients)
    with strict_cupy.forbid("sync", "h2d", "d2h", "alloc"):
        clip(gradients)


@pytest.mark.parametrize("bad", [0, -1.0, math.inf, math.nan, "1", True])
def test_a_limit_that_cannot_be_is_named(bad: Any) -> None:
    with pytest.raises(ConfigError, match="clip_norm must be a number above 0, found"):
        ClipNorm(bad)


def samples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x = 10 * rng.standard_normal((50, 12))
    return x, x[:, :3].argmax(axis=1)


def trained(backend: Backend, clip_norm: float | None, **options: Any) -> np.ndarray:
    """By how much the weights have changed."""
    layers = [xn.Linear(12, 7), xn.Tanh(), xn.Linear(7, 3)]
    network = Sequential(layers, backend=backend, dtype="float64", seed=1)
    before = backend.to_host(network.flat_parameters).copy()
    how = {"optimizer": xn.SGD(1.0), "epochs": 1, "batch_size": None} | options
    xn.fit(network, samples(), clip_norm=clip_norm, **how)
    return backend.to_host(network.flat_parameters) - before


def test_fit_clips_the_gradient_of_all_parameters_with_that_of_the_penalty(
    backend: Backend, compared: Callable[[str], None]
) -> None:
    whole = trained(backend, None, l2=20.0)
    norm = float(np.linalg.norm(whole))
    clipped = trained(backend, norm / 3, l2=20.0)
    assert error(clipped, whole / 3) <= 1e-6
    assert np.array_equal(trained(backend, 2 * norm, l2=20.0), whole)
    compared("fit with clip_norm")


def test_a_replayed_step_clips_to_the_same_bits(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"epochs": 5, "batch_size": 16}
    found = trained(backend, 0.1, **how, optimizer=xn.Adam())
    monkeypatch.setattr(SETTINGS, "recording_enabled", False)
    expected = trained(backend, 0.1, **how, optimizer=xn.Adam())
    assert found.tobytes() == expected.tobytes()
    assert found.tobytes() != trained(backend, None, **how, optimizer=xn.Adam()).tobytes()
