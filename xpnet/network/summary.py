"""A network as a table: its layers, the shapes of their outputs, and their size."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from xpnet.layers.base import Layer, frozen_parameters
from xpnet.layers.shapes import Shape

Row = tuple[str, str, str, str]


def table_of(layers: Sequence[Layer], in_features: int) -> list[Row]:
    """The rows of the table: header, one row per layer, footer; frozen layers are marked.

    The last column is `Layer.multiply_adds`.
    """
    rows = [("layer", "output shape", "parameters", "multiply-adds")]
    shape: Shape = (in_features,)
    total = frozen = all_products = 0
    for position, layer in enumerate(layers):
        products = layer.multiply_adds(shape)
        all_products += products
        shape = layer.output_shape(shape) or shape
        sizes = {name: math.prod(p.shape) for name, p in layer._parameter_specs().items()}
        fixed = sum(sizes[name] for name in frozen_parameters(layer))
        count = sum(sizes.values())
        total, frozen = total + count, frozen + fixed
        mark = "" if layer.trainable and not fixed else " (frozen)"
        if 0 < fixed < count:
            mark = f" ({fixed:,} frozen)"
        counts = f"{count:,}", f"{products:,}"
        rows.append((f"{position} {layer}{mark}", _with_samples(shape), *counts))
    name = f"all ({frozen:,} frozen)" if frozen else "all"
    return [*rows, (name, _with_samples(shape), f"{total:,}", f"{all_products:,}")]


def _with_samples(shape: Shape) -> str:
    return f"(N, {', '.join(map(str, shape))})"


def as_text(rows: Sequence[Row]) -> str:
    """The table as text, with lines below the header and above the footer.

    The lines are ASCII where the standard output has no characters to draw with.
    """
    wide = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{a:<{wide[0]}}  {b:<{wide[1]}}  {c:>{wide[2]}}  {d:>{wide[3]}}" for a, b, c, d in rows
    ]
    rule = _line_character() * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _line_character() -> str:
    try:
        "─".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "-"
    return "─"
