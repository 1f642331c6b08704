"""Optimizers: whole-array updates of a network's flat store.

`values`, `gradients` and all state: `(P,)`, one dtype, one backend; there is no loop over
parameters. Updates are written with `out=` and read what changes from step to step (rate,
bias correction) from one small array on the device, `scalars`, so a step allocates nothing,
waits for nothing, and can be recorded.

Rates and defaults follow PyTorch, with one exception that holds throughout: `weight_decay` is
decoupled, `W ← W − rate · weight_decay · W` before the update (Loshchilov, Hutter, "Decoupled
weight decay regularization", ICLR 2019), and touches only matrices. The decay that goes
through the gradient is `losses.L2Penalty`.
"""

from xpnet.optimizers.adam import Adam, AdamW
from xpnet.optimizers.base import Optimizer
from xpnet.optimizers.clipping import ClipNorm
from xpnet.optimizers.gradient_descent import SGD, RMSprop

__all__ = ["SGD", "Adam", "AdamW", "ClipNorm", "Optimizer", "RMSprop"]
