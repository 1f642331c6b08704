"""`Sequential`, and the parts it is made of."""

from xpnet.network.architecture import LAYERS
from xpnet.network.nesting import PREDICTION_ROWS
from xpnet.network.sequential import Sequential
from xpnet.network.sequential import _restored as _restored  # where pickles of 0.1 look for it

__all__ = ["LAYERS", "PREDICTION_ROWS", "Sequential"]
