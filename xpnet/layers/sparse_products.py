"""The two products of `Linear` with sparse rows: `X Wᵀ` and `Xᵀ dY`.

Both are sums over entries, `y_n = Σ_e value_e · w_column(e)` over the entries of row `n`, and
`dw_i = Σ_e value_e · dy_row(e)` over those of column `i`, where `w_i` and `dw_i` `(out,)` are the
rows of `Wᵀ` and of its gradient. So they are one formula, of the entries by row and by column.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from xpnet.accel.dispatch import accelerated
from xpnet.backend import Array, Backend, array_module, gather
from xpnet.errors import ShapeError
from xpnet.utils.sparse import Diagonals
from xpnet.workspace import Workspace


def multiply(sums: Sequence[Diagonals], source: Array, out: Array, workspace: Workspace) -> None:
    """`out[t] = Σ_e value_e · source[index_e]` over the entries of row `t`; 0 where it has none.

    `sums`: of a matrix `(T, M)` on the host, from where they are copied to the device; where they
    are several, each takes the rows that the one before gives. `source`: `(M, out)`; `out`:
    `(T, out)`. Raises `ShapeError` for other shapes.
    """
    xp, shape = array_module(source, out), (sums[-1].shape[0], sums[0].shape[1])
    if source.shape[:1] != shape[1:] or out.shape != (shape[0], *source.shape[1:]):
        raise ShapeError(
            f"a sparse matrix {shape} times {tuple(source.shape)} does not give "
            f"{tuple(out.shape)}: give rows of the width of the layer, and their own gradients"
        )
    for number, entries in enumerate(sums[:-1]):
        pieces = workspace.array(
            xp, f"pieces {number}", (entries.shape[0], out.shape[1]), out.dtype
        )
        _add_up(xp, entries, source, pieces, workspace)
        source = pieces
    xp.copyto(out, 0)
    _add_up(xp, sums[-1], source, out, workspace)


def _add_up(xp: Any, entries: Diagonals, source: Array, out: Array, workspace: Workspace) -> None:
    """One of the sums; rows of `out` without entries stay."""
    if not len(entries.targets):
        return
    place = Backend.of(source).asarray
    weighted_sums(
        xp,
        place(entries.targets),
        place(entries.offsets),
        place(entries.indices),
        place(entries.values),
        source,
        out,
        bounds=entries.offsets.tolist(),
        workspace=workspace,
    )


@accelerated
def weighted_sums(
    xp: Any,
    targets: Array,
    offsets: Array,
    indices: Array,
    values: Array,
    source: Array,
    out: Array,
    *,
    bounds: list[int],
    workspace: Workspace,
) -> None:
    """`out[targets[s]] = Σ_k values[e] · source[indices[e]]`, where `e = offsets[k] + s`.

    Other rows of `out` stay. Arguments as in `Diagonals`; `bounds`: `offsets` on the host.
    """
    shape = len(targets), out.shape[1]
    sums = workspace.array(xp, "sums", shape, out.dtype)
    terms = workspace.array(xp, "terms", shape, out.dtype)
    factors = values.reshape(len(values), 1)
    for start, stop in pairwise(bounds):
        count = stop - start
        products = (terms if start else sums)[:count]
        gather(source, indices[start:stop], out=products)
        xp.multiply(products, factors[start:stop], out=products)
        if start:
            xp.add(sums[:count], products, out=sums[:count])
    out[targets] = sums
