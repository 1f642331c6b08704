"""The competitors. Each runs in its own process, and is imported only there."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.peer import Peer


@dataclass(frozen=True)
class Competitor:
    """A name for the command line, a title for the table, and where its `Peer` is."""

    name: str
    title: str
    module: str
    kind: str
    packages: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu",)

    def load(self) -> type[Peer]:
        """The `Peer`; raises `ImportError` where its library is not installed."""
        found: type[Peer] = getattr(import_module(f"bench.{self.module}"), self.kind)
        return found


_BOTH = ("cpu", "cuda")
COMPETITORS = [
    Competitor("floor", "the floor: GEMMs alone", "floor", "Floor", ("numpy",), _BOTH),
    Competitor("launch", "the launch of an empty graph", "floor", "Launch", (), ("cuda",)),
    Competitor("xpnet", "xpnet", "peers.xpnet_peer", "Xpnet", ("xpnet", "numpy"), _BOTH),
    Competitor(
        "xpnet-cpu",
        "xpnet on the CPU",
        "peers.xpnet_peer",
        "OnCpu",
        ("xpnet", "numpy"),
        ("cuda",),
    ),
    Competitor(
        "xpnet-fast", "xpnet[fast]", "peers.xpnet_peer", "Fast", ("xpnet", "numpy", "numba")
    ),
    Competitor(
        "student", "a student's NumPy, float64", "peers.numpy_student", "Student", ("numpy",)
    ),
    Competitor("torch", "PyTorch eager", "peers.torch_eager", "Eager", ("torch",), _BOTH),
    Competitor(
        "torch-fused",
        "PyTorch eager, fused optimizer",
        "peers.torch_eager",
        "Fused",
        ("torch",),
        _BOTH,
    ),
    Competitor(
        "torch-channels-last",
        "PyTorch eager, fused, channels_last",
        "peers.torch_eager",
        "ChannelsLast",
        ("torch",),
        _BOTH,
    ),
    Competitor(
        "torch-compiled", "torch.compile", "peers.torch_compiled", "Compiled", ("torch",), ("cpu",)
    ),
    Competitor(
        "torch-reduced",
        "torch.compile, reduce-overhead",
        "peers.torch_compiled",
        "Reduced",
        ("torch",),
        ("cuda",),
    ),
    Competitor(
        "torch-graph", "PyTorch, CUDA graph", "peers.torch_graph", "Graph", ("torch",), ("cuda",)
    ),
    Competitor("jax", "JAX jit, a call a step", "peers.jax_peers", "Jit", ("jax", "jaxlib"), _BOTH),
    Competitor("jax-scan", "JAX scan, a call an epoch", "peers.jax_peers", "Scan", ("jax",), _BOTH),
    Competitor("sklearn", "scikit-learn", "peers.sklearn_peer", "Sklearn", ("scikit-learn",)),
    Competitor("keras", "Keras on JAX", "peers.keras_peer", "Keras", ("keras", "jax")),
    Competitor("thinc", "Thinc", "peers.thinc_peer", "Thinc", ("thinc",)),
]
BY_NAME = {competitor.name: competitor for competitor in COMPETITORS}
NO_PEERS = ("floor", "launch", "xpnet", "xpnet-cpu", "xpnet-fast")
"""Competitors that do not count as peers."""
OURS = ("xpnet", "xpnet-cpu", "xpnet-fast")
