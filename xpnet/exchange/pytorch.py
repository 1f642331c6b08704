"""`to_torch` and `from_torch`: a network as `torch.nn.Sequential`, and back.

Both libraries keep weights as `(out, in)` under the same names, count a layer's position the
same way, and mean the same by BatchNorm's momentum (the share of the new batch), ε and running
variance (unbiased), so only names of settings differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy

from xpnet import activations, layers
from xpnet.backend import Backend
from xpnet.errors import ConfigError
from xpnet.exchange.peers import imported, kind_of, require_network
from xpnet.layer import Layer
from xpnet.network import Sequential

if TYPE_CHECKING:
    from torch import nn

_INSTALL = "torch"
_STATE = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class _Pair:
    """A layer and the module of `torch.nn` that does the same.

    `names`: a setting's name there for each of ours. `only`: what further settings of the module
    must be to mean our layer; the first value is the one we write.
    """

    layer: type[Layer]
    module: str
    names: dict[str, str] = field(default_factory=dict)
    only: dict[str, tuple[Any, ...]] = field(default_factory=dict)


_PAIRS = (
    _Pair(layers.Linear, "Linear", {"in_features": "in_features", "out_features": "out_features"}),
    _Pair(layers.Dropout, "Dropout", {"rate": "p"}),
    _Pair(
        layers.BatchNorm,
        "BatchNorm1d",
        {"features": "num_features", "momentum": "momentum", "epsilon": "eps"},
        {"track_running_stats": (True,)},
    ),
    _Pair(layers.LayerNorm, "LayerNorm", {"features": "normalized_shape", "epsilon": "eps"}),
    _Pair(activations.ReLU, "ReLU"),
    _Pair(activations.LeakyReLU, "LeakyReLU", {"slope": "negative_slope"}),
    _Pair(activations.Sigmoid, "Sigmoid"),
    _Pair(activations.Tanh, "Tanh"),
    _Pair(activations.GELU, "GELU", only={"approximate": ("tanh",)}),
    _Pair(activations.Softmax, "Softmax", only={"dim": (1, -1)}),
)


def to_torch(network: Sequential) -> nn.Sequential:
    """`network` as a `torch.nn.Sequential` on the CPU, of the same dtype, in evaluation mode.

    It owns copies of the parameters and running statistics and gives the same outputs, `(N,
    in_features) -> (N, out_features)`; position and name of each parameter are the same too.
    `GaussianNoise`, which PyTorch lacks, becomes `Identity`: right for prediction, and to be
    replaced by a module of your own before training on.

    Raises `ConfigError` without PyTorch, and for a layer of another kind, by its position.

        module = xn.to_torch(network)
        logits = module(torch.from_numpy(x))             # x (N, 784), logits (N, 10)
    """
    require_network(network, "to_torch()")
    torch = imported("torch", "to_torch()", _INSTALL)
    with torch.random.fork_rng(devices=[]):  # each module draws weights, which we replace
        modules = [_module(torch.nn, *numbered) for numbered in enumerate(network.layers)]
    sequential: nn.Sequential = torch.nn.Sequential(*modules).to(getattr(torch, str(network.dtype)))
    to_host = network.backend.to_host
    state = {name: torch.from_numpy(to_host(a)) for name, a in network.state_dict().items()}
    sequential.load_state_dict(state)
    return sequential.eval()


def _module(nn: Any, position: int, layer: Layer) -> Any:
    if type(layer) is layers.GaussianNoise:
        return nn.Identity()
    for pair in _PAIRS:
        if type(layer) is pair.layer:
            settings = {theirs: getattr(layer, ours) for ours, theirs in pair.names.items()}
            fixed = {name: values[0] for name, values in pair.only.items()}
            return getattr(nn, pair.module)(**settings, **fixed)
    raise ConfigError(f"layer {position}, {layer}, has no counterpart in PyTorch: leave it out")


def from_torch(sequential: nn.Sequential, *, device: str | Backend = "cpu") -> Sequential:
    """A `torch.nn.Sequential` of layers that xpnet has, as a network on `device`.

    It owns copies of the parameters and running statistics, has their dtype (float32 or
    float64), and predicts what `sequential` gives in evaluation mode. `Identity` and `Flatten`
    do nothing to `(N, features)` and are left out, so later layers move up. A module without
    bias or gains gets the ones that change nothing, 0 and 1, which train from then on; a module
    that occurs twice becomes two layers.

    Raises `ConfigError` without PyTorch, and for a module that is no layer of xpnet's, or whose
    settings mean none, by its name and position.

        module = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
        network = xn.from_torch(module)
        logits = network.forward(x)                      # x (N, 784), logits (N, 10)
    """
    torch = imported("torch", "from_torch()", _INSTALL)
    if not isinstance(sequential, torch.nn.Sequential) or (
        type(sequential).forward is not torch.nn.Sequential.forward
    ):
        raise ConfigError(
            f"from_torch() takes a torch.nn.Sequential, found {kind_of(sequential)}: give the "
            f"layers as one"
        )
    made: list[Layer] = []
    state: dict[str, Any] = {}
    for position, module in enumerate(sequential):
        if _does_nothing(torch.nn, module):
            continue
        for name in _STATE:
            tensor = getattr(module, name, None)
            if tensor is not None:
                state[f"{len(made)}.{name}"] = tensor.detach()
        made.append(_layer(torch.nn, position, module))
    network = Sequential(made, backend=device, dtype=_dtype(state))
    own = network.state_dict()
    network.load_state_dict(
        {name: network.backend.to_host(array) for name, array in own.items()}
        | {name: numpy.from_dlpack(tensor.cpu()) for name, tensor in state.items()}
    )
    return network


def _does_nothing(nn: Any, module: Any) -> bool:
    if type(module) is nn.Flatten:
        return (module.start_dim, module.end_dim) == (1, -1)
    return type(module) is nn.Identity


def _layer(nn: Any, position: int, module: Any) -> Layer:
    where = f"module {position} of the torch.nn.Sequential, {kind_of(module)},"
    for pair in _PAIRS:
        if type(module) is not getattr(nn, pair.module):
            continue
        for name, values in pair.only.items():
            if getattr(module, name) not in values:
                raise ConfigError(
                    f"{where} has {name} {getattr(module, name)!r}: xpnet has it with "
                    f"{' or '.join(map(repr, values))} only"
                )
        settings = {ours: getattr(module, theirs) for ours, theirs in pair.names.items()}
        if settings.get("momentum", 0) is None:
            raise ConfigError(f"{where} has momentum None, an average over all batches: set one")
        if pair.layer is layers.LayerNorm:
            shape = tuple(settings["features"])
            if len(shape) != 1:
                raise ConfigError(f"{where} normalises over {shape}: xpnet does over one dimension")
            settings["features"] = shape[0]
        try:
            return pair.layer(**settings)
        except ConfigError as error:
            raise ConfigError(f"{where} cannot be had in xpnet: {error}") from None
    known = ", ".join(pair.module for pair in _PAIRS)
    raise ConfigError(f"{where} is no layer that xpnet has: it knows {known}, Identity, Flatten")


def _dtype(state: dict[str, Any]) -> str:
    found = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()})
    if len(found) > 1 or not set(found) <= {"float32", "float64"}:
        raise ConfigError(
            f"the torch.nn.Sequential has parameters of {' and '.join(found)}: convert it with "
            f".float() or .double()"
        )
    return found[0] if found else "float32"
