"""What is given to a network, as arrays on its device, or sparse rows on the host."""

from __future__ import annotations

from typing import Any

from xpnet.backend import Array, array_module
from xpnet.errors import DataError
from xpnet.layers import Linear
from xpnet.utils.inputs import as_samples
from xpnet.utils.sparse import SparseRows, is_sparse


def taken(network: Any, x: Any, *, check: bool) -> Array:
    """`x` as an array `(N, in_features)` of the dtype of `network`, where it computes.

    What is given for a prediction on the host is copied to the device; in training nothing is.
    Sparse rows stay on the host: the first layer copies those of each batch.
    """
    require_sparse_fits(network, x, "x")
    x = as_samples(
        x,
        backend=network.backend,
        features=network.in_features,
        check=check,
        dtype=network.dtype,
        image=network.image_shape,
    )
    if isinstance(x, SparseRows):
        return x.astype(network.dtype)
    if check and array_module(x) != network.backend.xp:
        return network.backend.asarray(x, dtype=network.dtype)
    if network._own_store is not None:
        array_module(x, network.flat_parameters)
    return x if x.dtype == network.dtype else x.astype(network.dtype)


def require_sparse_fits(network: Any, x: Any, name: str) -> None:
    """Raise `DataError` for sparse `x` where `network` does not begin with `Linear`."""
    if not is_sparse(x):
        return
    first = network.layers[0]
    if type(first) is Linear and "forward" not in vars(first):
        return
    raise DataError(
        f"{name} is sparse ({type(x).__name__}), which only a network that begins with Linear "
        f"takes, and this one begins with {first}: give its rows densely, .toarray()"
    )
