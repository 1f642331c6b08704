"""Copies of a network for the parts of a batch, which several threads may compute at once."""

from __future__ import annotations

from collections.abc import Sequence

from xpnet.backend import Array, Backend
from xpnet.layers.base import Layer, walk
from xpnet.losses.base import Loss
from xpnet.network.copies import LayerCopies
from xpnet.network.store import Block, Store
from xpnet.utils.exclusive import with_own_buffers


class Replica:
    """Copies of the layers that share the parameters and have gradients and buffers of their own.

    `gradients`, `unused`: the blocks for the gradients of trained and of frozen parameters, as in
    `Store`. All layers are xpnet's own.
    """

    def __init__(
        self,
        backend: Backend,
        layers: Sequence[Layer],
        store: Store,
        gradients: Block,
        unused: Block,
    ) -> None:
        self._backend = backend
        self._copies = LayerCopies()
        self.layers = [self._copies.lasting(layer) for layer in layers]
        self._first = store.first_trained
        store.bind(self.layers, gradients.views | unused.views)
        self.gradients = gradients.flat
        self._pairs = list(zip(walk(layers), walk(self.layers), strict=True))
        self._loss: tuple[Loss, Loss] | None = None

    def update(self, start: int) -> None:
        """Take the settings of the network's layers as they are now.

        `start`: the first row of this part in the batch, for layers with random numbers.
        """
        self._copies.update()
        for whole, own in self._pairs:
            own._begin_part(whole, start, self._backend)

    def forward(self, x: Array) -> Array:
        """Outputs of a training pass."""
        for layer in self.layers:
            x = layer.forward(x, training=True)
        return x

    def loss_of(self, loss: Loss) -> Loss:
        """A copy of `loss` with its own buffers, and its settings as they are now."""
        if self._loss is None or self._loss[0] is not loss:
            self._loss = loss, with_own_buffers(loss)
        copy = self._loss[1]
        vars(copy).update({n: v for n, v in vars(loss).items() if n != "workspace"})
        return copy

    def backward(self, gradient: Array) -> None:
        """Write all gradients, given that of the outputs."""
        for position in reversed(range(self._first, len(self.layers))):
            layer = self.layers[position]
            if position == self._first:
                layer.backward_parameters(gradient)
            else:
                gradient = layer.backward(gradient)


class Replicas:
    """The replicas of one network, made when they are first needed."""

    def __init__(self, backend: Backend, layers: Sequence[Layer], store: Store) -> None:
        self._backend, self._layers, self._store = backend, layers, store
        self._made: list[Replica] = []

    def first(self, count: int) -> list[Replica]:
        """That many; the first one writes the gradients of the network itself."""
        own, backend = self._store, self._backend
        while len(self._made) < count:
            blocks = own.gradients, own.unused
            if self._made:
                kinds, dtype = (own.trained.layout, own.frozen.layout), own.trained.flat.dtype
                gradients, unused = (Block.zeros(backend, dtype, kind) for kind in kinds)
                blocks = gradients, unused
            self._made.append(Replica(backend, self._layers, own, *blocks))
        return self._made[:count]

    def advance(self, rows: int) -> None:
        """Random numbers of the network itself continue after `rows` more samples."""
        for layer in walk(self._layers):
            layer._skip_samples(rows, self._backend)
