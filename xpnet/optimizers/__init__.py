"""Optimizers: each updates all parameters of a network as one flat array.

`values`, `gradients` and all state: `(P,)`, one dtype, one backend; there is no loop over
parameters. Updates use `out=` and read the values that change from step to step (learning rate,
bias correction) from one small array on the device, `scalars`, so a step does not allocate memory
or synchronise, and can be recorded.

Formulas and defaults follow PyTorch, with one exception: in every optimizer `weight_decay` is
decoupled, `W ← W − rate · weight_decay · W` before the update (Loshchilov, Hutter, "Decoupled
weight decay regularization", ICLR 2019), and applies only to weight matrices; see `Optimizer.step`.
For L2 regularisation, which is added to the gradient, see `losses.L2Penalty`.

After every 50th update, subnormal numbers in the state become 0, since many CPUs are slow with
them; see `Optimizer.count_step`.
"""

from xpnet.optimizers.adam import Adam, AdamW
from xpnet.optimizers.base import Optimizer
from xpnet.optimizers.clipping import ClipNorm
from xpnet.optimizers.gradient_descent import SGD, RMSprop

__all__ = ["SGD", "Adam", "AdamW", "ClipNorm", "Optimizer", "RMSprop"]
