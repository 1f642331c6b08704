"""`to_torch` and `from_torch`: a network as `torch.nn.Sequential`, and back.

Both libraries keep weights as `(out, in)` under the same names, count a layer's position the
same way, and mean the same by BatchNorm's momentum (the share of the new batch), ε and running
variance (unbiased), so only names of settings differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy

from xpnet import layers
from xpnet.backend import Backend
from xpnet.errors import ConfigError, XpnetError
from xpnet.interop._torch_pairs import PAIRS
from xpnet.interop.peers import imported, kind_of, require_network, require_own_forward
from xpnet.layers.base import Layer, frozen_parameters
from xpnet.layers.images import ImageLayer
from xpnet.network import Sequential

if TYPE_CHECKING:
    from torch import nn

_INSTALL = "torch"
_HOOKS = {
    "forward_pre_hook": " (torch.nn.utils.remove_weight_norm, prune.remove)",
    "forward_hook": "",
    "backward_pre_hook": "",
    "backward_hook": "",
}
"""Hooks that a module may have, each with how those of PyTorch itself are removed."""


def to_torch(network: Sequential) -> nn.Sequential:
    """`network` as a `torch.nn.Sequential` on the CPU, of the same dtype, in evaluation mode.

    It owns copies of the parameters and running statistics and gives the same outputs as
    `network(x)` (logits; logarithms of rates after training with `Poisson`), `(N, in_features) ->
    (N, out_features)`; position and name of each parameter are the same too. For
    images it takes rows, `x.reshape(len(x), -1)` of `(N, C, H, W)`; images that it gives are `(N,
    C, H, W)`. A network within the network is a `Sequential` too, and a `Residual` is a
    `Sequential` that adds its input to its output. `GaussianNoise`, which PyTorch lacks, becomes
    `Identity`: right for prediction, and to be replaced by a module of your own before further
    training. Parameters of a frozen layer require no gradient.

    Raises `ConfigError` without PyTorch, and for a layer of another kind, by its position.

        module = xn.to_torch(network)
        logits = module(torch.from_numpy(x))             # x (N, 784), logits (N, 10)
    """
    require_network(network, "to_torch()")
    torch = imported("torch", "to_torch()", _INSTALL)
    with torch.random.fork_rng(devices=[]):  # each module draws weights, which we replace
        made = torch.nn.Sequential(*_modules(torch.nn, network.layers, ""))
    sequential: nn.Sequential = made.to(getattr(torch, str(network.dtype)))
    to_host = network.backend.to_host
    state = {name: torch.from_numpy(to_host(a)) for name, a in network.state_dict().items()}
    sequential.load_state_dict(state)
    for position, layer in enumerate(network.layers):
        for name in frozen_parameters(layer):
            sequential.get_parameter(f"{position}.{name}").requires_grad_(False)
    return sequential.eval()


def _modules(nn: Any, made: Sequence[Layer], within: str) -> list[Any]:
    """The modules of `made`; `within` begins the positions of these layers."""
    return [_module(nn, f"{within}{number}", layer) for number, layer in enumerate(made)]


def _module(nn: Any, position: str, layer: Layer) -> Any:
    require_own_forward(position, layer)
    if type(layer) is layers.GaussianNoise:
        return nn.Identity()
    if type(layer) is layers.Unflatten:
        height, width, channels = layer.output_shape(None)
        return nn.Unflatten(1, (channels, height, width))
    if type(layer) is layers.GlobalAveragePool2d:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if type(layer) is Sequential:
        return nn.Sequential(*_modules(nn, layer.layers, f"{position}."))
    if type(layer) is layers.Residual:
        return _residual()(*_modules(nn, layer.layers, f"{position}."))
    for pair in PAIRS:
        if type(layer) is pair.layer:
            settings = {theirs: getattr(layer, ours) for ours, theirs in pair.names.items()}
            fixed = {name: values[0] for name, values in pair.only.items()}
            return getattr(nn, pair.module)(**settings, **fixed)
    raise ConfigError(f"layer {position}, {layer}, has no counterpart in PyTorch: leave it out")


def _residual() -> Any:
    """The class of modules that a `Residual` becomes."""
    from xpnet.interop._torch_modules import Residual

    return Residual


def from_torch(
    sequential: nn.Sequential,
    *,
    device: str | Backend = "cpu",
    image_shape: tuple[int, ...] | None = None,
) -> Sequential:
    """A `torch.nn.Sequential` of layers that xpnet has, as a network on `device`.

    The network owns copies of the parameters and running statistics and has their dtype (float32 or
    float64). It predicts what `sequential` gives in evaluation mode.

    - `Identity`, and `Flatten` of rows `(N, features)`, do nothing and are left out, so the numbers
      of later layers are smaller. The modules of an inner `Sequential` become layers of the
      network.
    - `AdaptiveAvgPool2d(1)` becomes a `GlobalAveragePool2d`, which gives `(N, C)`; a `Flatten`
      after it is left out.
    - A `Linear` without bias gets a bias of 0, and a normalisation without weight and bias gets
      weights of 1 and a bias of 0. They are trained from then on. A `Conv2d` without bias stays
      without one.
    - A module without parameters may occur several times. A module none of whose parameters
      requires a gradient becomes a frozen layer.

    `image_shape`: `(height, width)` or `(height, width, channels)` where `sequential` takes images
    and does not begin with `Unflatten`; the network then begins with one. PyTorch takes images
    `(N, C, H, W)`; give the network `x.permute(0, 2, 3, 1)`, or `x.reshape(len(x), -1)`. Images
    in the output of the network are `(N, H, W, C)`.

    Raises `ShapeError` where the layers do not fit; `ConfigError` without PyTorch, and for a module
    that xpnet does not have, or has not with these settings, by its name and position. Also for
    anything that would be silently ignored: hooks, a replaced `forward`, parametrizations,
    `weight_norm`, `spectral_norm` and pruning, parameters that two modules share; and for a module
    without values (lazy, or on the meta device).

        module = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
        network = xn.from_torch(module)
        logits = network.forward(x)                      # x (N, 784), logits (N, 10)
    """
    torch = imported("torch", "from_torch()", _INSTALL)
    if not isinstance(sequential, torch.nn.Sequential) or not _runs_in_order(torch, sequential):
        raise ConfigError(
            f"from_torch() takes a torch.nn.Sequential, found {kind_of(sequential)}: give the "
            f"layers as one"
        )
    _require_plain(torch, "the torch.nn.Sequential", sequential)
    state: dict[str, Any] = {}
    made: list[Layer] = [] if image_shape is None else [layers.Unflatten(image_shape)]
    made += _layers(torch, sequential, _Tensors(state), "", "", made)
    if made and image_shape is None and isinstance(made[0], ImageLayer):
        raise ConfigError(
            f"the torch.nn.Sequential begins with {made[0]}, which takes images of any size, and a "
            f"network is made for one: give from_torch(…, image_shape=(height, width, channels))"
        )
    network = Sequential(made, backend=device, dtype=_dtype(state))
    own = network.state_dict()
    network.load_state_dict(
        {name: network.backend.to_host(array) for name, array in own.items()}
        | {name: numpy.from_dlpack(tensor.cpu()) for name, tensor in state.items()}
    )
    return network


@dataclass
class _Tensors:
    """The tensors found so far: by the name that they get here, and the module that owns each."""

    by_name: dict[str, Any]
    owners: dict[int, str] = field(default_factory=dict)

    def add(self, where: str, position: str, found: dict[str, Any]) -> None:
        for name, tensor in found.items():
            owner = self.owners.setdefault(tensor.data_ptr(), where)
            if owner != where:
                raise ConfigError(
                    f"{where} shares its {name} with {owner} and layers of xpnet share none: put "
                    f"a copy.deepcopy() of the module in its place"
                )
            self.by_name[f"{position}.{name}"] = tensor.detach()


def _layers(
    torch: Any,
    sequential: Any,
    tensors: _Tensors,
    place: str,
    within: str,
    before: Sequence[Layer],
) -> list[Layer]:
    """The layers for the modules of `sequential`, which lies at `place`.

    `within` begins their positions in the network; `before`: the layers before them.
    """
    made: list[Layer] = []
    # Those of a Residual are numbered from 0.
    first = 0 if within else len(before)
    for inner, where, module in _flat(torch, sequential, place):
        if _does_nothing(torch.nn, module, [*before, *made]):
            continue
        position = f"{within}{first + len(made)}"
        layer: Layer
        if type(module) is _residual():
            so_far = [*before, *made]
            inside = _layers(torch, module, tensors, f"{inner}.", f"{position}.", so_far)
            try:
                layer = layers.Residual(*inside)
            except XpnetError as error:
                raise ConfigError(f"{where} is not possible in xpnet: {error}") from None
            if len(frozen_parameters(layer)) == len(layer.parameters()) > 0:
                layer.trainable = False
        else:
            layer = _layer(torch.nn, where, module)
            tensors.add(where, position, _tensors(torch, where, module, layer))
            layer.trainable = _is_trainable(where, module)
        made.append(layer)
    return made


def _flat(torch: Any, sequential: Any, prefix: str) -> Iterator[tuple[str, str, Any]]:
    """The modules in order, those of a `Sequential` within too.

    With each its place and what messages call it.
    """
    for position, module in enumerate(sequential):
        place = f"{prefix}{position}"
        where = f"module {place} of the torch.nn.Sequential, {kind_of(module)},"
        _require_plain(torch, where, module)
        if isinstance(module, torch.nn.Sequential) and _runs_in_order(torch, module):
            yield from _flat(torch, module, f"{place}.")
        else:
            yield place, where, module


def _runs_in_order(torch: Any, sequential: Any) -> bool:
    kind, own = type(sequential), torch.nn.Sequential
    return kind.forward is own.forward and kind.__call__ is own.__call__


def _require_plain(torch: Any, where: str, module: Any) -> None:
    """Raise `ConfigError` for hooks and the like, which change outputs or gradients."""
    if isinstance(module, torch.nn.modules.lazy.LazyModuleMixin):
        raise ConfigError(f"{where} is lazy, so it has no weights yet: call it on a batch first")
    everywhere = vars(torch.nn.modules.module)
    for kind, fix in _HOOKS.items():
        hooks = [*getattr(module, f"_{kind}s", {}).values()]
        of_all = [*everywhere.get(f"_global_{kind}s", {}).values()]
        if hooks or of_all:
            called = kind_of((hooks + of_all)[0])
            if called == "function":
                called = (hooks + of_all)[0].__name__
            raise ConfigError(
                f"{where} has a {kind.replace('_', ' ')} ({called}), which xpnet would ignore: "
                f"remove it first{fix}"
            )
    if "forward" in vars(module):
        raise ConfigError(
            f"{where} has a replaced forward(), which xpnet would ignore: delete it first"
        )
    if torch.nn.utils.parametrize.is_parametrized(module):
        names = ", ".join(module.parametrizations)
        raise ConfigError(
            f"{where} has a parametrization of its {names}, which xpnet would ignore: remove it "
            f"first (torch.nn.utils.parametrize.remove_parametrizations)"
        )


def _tensors(torch: Any, where: str, module: Any, layer: Layer) -> dict[str, Any]:
    """The tensors of a module that its layer has too, each checked."""
    found = {}
    known = (*layer.parameters(), *layer.buffers())
    present = {**module._parameters, **module._buffers, **module._modules}
    for name in (name for name, value in present.items() if value is not None):
        if name not in (*known, "num_batches_tracked"):
            raise ConfigError(
                f"{where} has {name!r}, which xpnet's {type(layer).__name__} does not have: give "
                f"the plain module"
            )
    for name in known:
        tensor = getattr(module, name, None)
        if tensor is None:
            # 0 and 1 change nothing in the place of a bias and of gains.
            if name in layer.buffers() or (name == "weight" and type(layer) is layers.Linear):
                raise ConfigError(f"{where} has no {name}, so it cannot be converted")
            continue
        if tensor.is_meta:
            raise ConfigError(
                f"{where} is on the meta device, where its {name} has no values: load them first"
            )
        if tensor.layout != torch.strided or not _is_plain_tensor(torch, tensor):
            raise ConfigError(
                f"{where} has a {name} that is not a dense tensor ({kind_of(tensor)}, "
                f"{tensor.layout}): convert it first"
            )
        if getattr(tensor, "_backward_hooks", None):
            raise ConfigError(
                f"{where} has a hook on its {name}, which xpnet would ignore: remove it first"
            )
        found[name] = tensor
    return found


def _is_plain_tensor(torch: Any, tensor: Any) -> bool:
    return type(tensor) in (torch.Tensor, torch.nn.Parameter)


def _is_trainable(where: str, module: Any) -> bool:
    """Whether the parameters require a gradient. Raises `ConfigError` if only some do."""
    found = {parameter.requires_grad for parameter in module.parameters()}
    if len(found) > 1:
        raise ConfigError(
            f"{where} has parameters that require a gradient and others that do not: a layer of "
            f"xpnet is frozen as a whole, so give all of them the same requires_grad"
        )
    return False not in found


def _does_nothing(nn: Any, module: Any, before: Sequence[Layer]) -> bool:
    """Whether `module` changes nothing after the layers `before`."""
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return not _gives_images(before)
    return type(module) is nn.Identity


def _gives_images(made: Sequence[Layer]) -> bool:
    for layer in reversed(made):
        if isinstance(layer, layers.Flatten | layers.GlobalAveragePool2d | layers.Linear):
            return False
        if isinstance(layer, layers.Unflatten | ImageLayer):
            return True
    return False


def _layer(nn: Any, where: str, module: Any) -> Layer:
    if type(module) is nn.AdaptiveAvgPool2d and module.output_size in (1, (1, 1)):
        return layers.GlobalAveragePool2d()
    if type(module) is nn.Unflatten:
        sizes = tuple(module.unflattened_size)
        if module.dim in (1, -1) and len(sizes) == 3:
            return layers.Unflatten((sizes[1], sizes[2], sizes[0]))
    for pair in PAIRS:
        if type(module) is not getattr(nn, pair.module):
            continue
        for name, values in pair.only.items():
            if getattr(module, name) not in values:
                raise ConfigError(
                    f"{where} has {name} {getattr(module, name)!r}: xpnet has it with "
                    f"{' or '.join(map(repr, values))} only"
                )
        settings = {ours: getattr(module, theirs) for ours, theirs in pair.names.items()}
        if pair.layer is layers.Conv2d:
            settings["bias"] = module.bias is not None
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
            raise ConfigError(f"{where} is not possible in xpnet: {error}") from None
    known = ", ".join(pair.module for pair in PAIRS)
    raise ConfigError(
        f"{where} is not a module that xpnet can convert; these are {known}, "
        f"AdaptiveAvgPool2d(1), Unflatten(1, (channels, height, width)), Identity, Sequential"
    )


def _dtype(state: dict[str, Any]) -> str:
    found = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()})
    if len(found) > 1 or not set(found) <= {"float32", "float64"}:
        raise ConfigError(
            f"the torch.nn.Sequential has parameters of {' and '.join(found)}: convert it with "
            f".float() or .double()"
        )
    return found[0] if found else "float32"
