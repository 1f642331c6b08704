"""Computes a batch on several ranks: the gradient is that of the batch, on every rank.

Rank `r` of `p` computes the rows `r N // p` to `(r + 1) N // p` of a batch of `N` rows. The loss of
the batch is the mean of the ranks' losses, weighted by their shares of the rows (or of the sum of
the sample weights), `L = Σ_r s_r L_r`, so its gradient is the sum of theirs with the same weights:
one sum over the ranks of the array of all gradients. Dropout, noise and augmentation of a sample
depend on how many samples were trained on before it, so a rank draws for its own rows what one
process would draw for them; and `BatchNorm` sums its statistics over the ranks as well.

With `parts` (a power of two, M) the batch is cut into M parts whatever the number of ranks, each
rank computes M / p of them, and their gradients are added along a fixed binary tree. So the bits of
the sum do not depend on the number of ranks. Each part is computed with one BLAS thread and without
compiled loops, whose rounding would depend on the number of ranks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from xpnet.backend import Array, array_module
from xpnet.distributed.group import Group, batch_of
from xpnet.errors import ConfigError
from xpnet.layers.base import walk
from xpnet.losses import Loss
from xpnet.network import Sequential
from xpnet.optimizers import Optimizer
from xpnet.training.gradients import forward_backward
from xpnet.utils.arguments import whole
from xpnet.utils.introspection import is_own


@dataclass(frozen=True)
class Ranks:
    """How batches are computed: on the ranks of `group`, and in how many `parts` (0: one a rank).

    Raises `ConfigError` unless `parts` is 0, or a power of two that the number of ranks divides.
    """

    group: Group
    parts: int = 0

    def __post_init__(self) -> None:
        parts, size = whole("reproducible_parts", self.parts, least=0), self.group.size
        if parts & (parts - 1):
            raise ConfigError(
                f"reproducible_parts must be a power of two, such as 8, or 0, found {parts}"
            )
        if parts % size:
            raise ConfigError(
                f"reproducible_parts must be a multiple of the number of ranks, found {parts} "
                f"for {size} ranks"
            )

    def require(self, network: Sequential, smallest: int) -> None:
        """Raise `ConfigError` for a network that the ranks cannot train.

        `smallest`: the rows of the smallest batch.
        """
        for layer in walk(network.layers):
            name = type(layer).__name__
            if layer.batch_dependent and not is_own(type(layer)):
                raise ConfigError(
                    f"distributed: a row of the output of {name} depends on other rows of the "
                    f"batch, of which each rank has only some: leave distributed out"
                )
            if layer.batch_dependent and self.parts:
                raise ConfigError(
                    f"reproducible_parts: the statistics of {name} are sums over the whole batch, "
                    f"whose bits depend on the number of ranks: leave reproducible_parts out, or "
                    f"use LayerNorm"
                )
            if layer.batch_dependent and smallest < self.group.size:
                raise ConfigError(
                    f"batch_size: the smallest batch has {smallest} rows, and {name} needs one on "
                    f"each of {self.group.size} ranks: use another batch_size, or fewer ranks"
                )

    def require_same(
        self,
        network: Sequential,
        optimizer: Optimizer,
        fingerprint: dict[str, str],
        has_checkpoints: bool,
    ) -> None:
        """Raise `ConfigError` unless all ranks train the same, with the first difference.

        `fingerprint`: what is trained, and how, as `training_fingerprint` describes it.
        """
        if self.group.size == 1:
            return
        to_host = network.backend.to_host
        digest = hashlib.sha256()
        for array in (network.flat_parameters, network.flat_buffers, *optimizer.state.values()):
            digest.update(to_host(array).tobytes())
        own = fingerprint | {
            "reproducible_parts": str(self.parts),
            "the checkpoints argument": "given" if has_checkpoints else "None",
            "the number of updates so far": str(optimizer.steps),
            "the digest of weights and optimizer state": digest.hexdigest()[:16],
        }
        found = self.group.all_gather(own)
        for rank, other in enumerate(found):
            for name in found[0] | other:
                one, two = found[0].get(name, "none"), other.get(name, "none")
                if one != two:
                    raise ConfigError(
                        f"distributed: {name} is {one} on rank 0 and {two} on rank {rank}: give "
                        f"all ranks the same data, settings, seed and weights"
                    )

    def batch(self, count: int) -> RankBatch:
        """What this rank computes of a batch of `count` rows."""
        return RankBatch(self.group, self.parts, count)


@dataclass(frozen=True)
class RankBatch:
    """A batch of `count` rows, of which the rank computes the slice `rows`.

    Where there are fewer rows than ranks, some ranks compute a row with weight 0 (`counted` is 0),
    so that all of them make the same steps.
    """

    group: Group
    parts: int
    count: int

    @property
    def counted(self) -> int:
        """How many rows of the batch this rank computes."""
        rank, size = self.group.rank, self.group.size
        return (rank + 1) * self.count // size - rank * self.count // size

    @property
    def rows(self) -> slice:
        """The rows that the rank takes: those it counts, or one of weight 0."""
        start = min(self.group.rank * self.count // self.group.size, self.count - 1)
        return slice(start, start + max(self.counted, 1))

    def forward_backward(
        self,
        network: Sequential,
        loss: Loss,
        x: Array,
        target: Array,
        weights: Array | None = None,
    ) -> tuple[Array, Array]:
        """A training pass over `rows`; writes the gradients of the whole batch's loss.

        `x`: `(n, F)` and `target`: those rows alone; `weights`: `(count,)` of the whole batch, or
        None. Returns logits `(n, C)` and a loss `()`, whose mean over the ranks, weighted by each
        rank's `counted`, is the loss of the batch.
        """
        rows = self.rows
        computed = self.counted if self.parts else len(x)
        # Other ranks take the random numbers of the rows before and after.
        if rows.start:
            network.replicas.advance(rows.start)
        with batch_of(self.group, self.count):
            if self.parts:
                made = self._in_parts(network, loss, x, target, weights)
            else:
                made = self._share(network, loss, x, target, weights, rows)
                self.group.all_reduce(network.flat_gradients)
        if after := self.count - rows.start - computed:
            network.replicas.advance(after)
        return made

    def _in_parts(
        self,
        network: Sequential,
        loss: Loss,
        x: Array,
        target: Array,
        weights: Array | None,
    ) -> tuple[Array, Array]:
        """`forward_backward` for this rank's parts, added along the tree of all parts."""
        xp, workspace = array_module(network.flat_parameters), network.workspace
        gradients, first = network.flat_gradients, self.rows.start
        own = self.parts // self.group.size
        logits = workspace.array(xp, "rank logits", (len(x), network.out_features), network.dtype)
        mean = workspace.array(xp, "rank loss", (), network.dtype)
        xp.copyto(mean, 0)
        xp.copyto(logits, 0)
        waiting = 0  # sums on the stack, each of a power of two of parts
        for place in range(own):
            part = self.group.rank * own + place
            start, stop = (number * self.count // self.parts for number in (part, part + 1))
            if stop > start:
                some, rows = slice(start - first, stop - first), slice(start, stop)
                value, outputs = self._share(network, loss, x[some], target[some], weights, rows)
                xp.copyto(logits[some], outputs)
                xp.add(mean, value, out=mean)
            else:
                xp.copyto(gradients, 0)
            # As in binary counting: a carry for each power of two that divides the parts so far.
            done = place + 1
            while done % 2 == 0:
                waiting, done = waiting - 1, done // 2
                xp.add(_sum_of(network, waiting), gradients, out=gradients)
            if place + 1 < own:
                xp.copyto(_sum_of(network, waiting), gradients)
                waiting += 1
        distance = 1
        while distance < self.group.size:
            other = self.group.rank ^ distance
            self.group.exchange_add(gradients, _sum_of(network, 0), other)
            distance *= 2
        return mean, logits

    def _share(
        self,
        network: Sequential,
        loss: Loss,
        x: Array,
        target: Array,
        weights: Array | None,
        rows: slice,
    ) -> tuple[Array, Array]:
        """The gradients of the share that `rows` have in the batch's loss; their loss and logits.

        The losses of all `rows` of the rank add up to that which `forward_backward` returns.
        """
        xp, workspace = array_module(network.flat_parameters), network.workspace
        mean = workspace.array(xp, "mean of a share", (), network.dtype)
        counted = len(x) if self.counted else 0
        if weights is None:
            share = counted / self.count
            value, logits = forward_backward(network, loss, x, target, scale=share)
            if self.parts:
                xp.multiply(value, counted / self.counted, out=mean)
                value = mean
            return value, logits
        factor = workspace.array(xp, "share of weights", (), network.dtype)
        total = workspace.array(xp, "sum of weights", (), network.dtype)
        xp.sum(weights[rows], out=factor)
        xp.sum(weights, out=total)
        xp.divide(factor, total, out=factor)
        xp.multiply(factor, min(counted, 1), out=factor)
        value, logits = forward_backward(network, loss, x, target, weights[rows], factor=factor)
        xp.multiply(value, factor, out=mean)
        xp.multiply(mean, self.count / max(self.counted, 1), out=mean)
        return mean, logits


def _sum_of(network: Sequential, place: int) -> Array:
    """The buffer at `place` on the stack of sums of gradients."""
    gradients = network.flat_gradients
    xp, name = array_module(gradients), f"sum {place} of parts"
    return network.workspace.array(xp, name, gradients.shape, gradients.dtype)
