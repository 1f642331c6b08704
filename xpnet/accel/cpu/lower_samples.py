"""Lowers what a step does with samples: gathering a batch, the loss, the metrics."""

from __future__ import annotations

from typing import Any

import numpy as np

from xpnet.accel.cpu.blocks import Each
from xpnet.accel.cpu.layout import ALL, by_samples, summands_of
from xpnet.accel.cpu.lower_base import Base, NotLowered, of_parts, single
from xpnet.accel.cpu.operands import (
    address,
    are_labels,
    is_like,
    is_matrix,
    is_real,
    key,
    share,
)
from xpnet.accel.cpu.phases import Work
from xpnet.accel.cpu.split_batch import SplitBatch
from xpnet.accel.program import Op
from xpnet.backend import Array


class Samples(Base):
    """Loops over rows, each of which is a sample."""

    def _op_take(self, op: Op) -> None:
        source, indices, *axis = op.inputs
        table = self._rows_of(indices)
        out: Any = op.output
        is_listed = table.strides[0] != 0
        is_of_rows = not axis and op.options.get("axis") == 0
        if not (is_listed and is_of_rows and out.flags.c_contiguous):
            # Of indices that are not those of the step nobody knows that they are in range.
            raise NotLowered(str(op))
        if out.ndim == source.ndim == 1 and out.dtype == source.dtype == np.int64:
            works = [
                self._work(
                    "gather_integers",
                    (out[rows].size, 1),
                    [source, Each(table[:, rows]), out[rows]],
                    [out[rows]],
                )
                for rows, _ in by_samples(out.size)
            ]
            self.operations.append(of_parts(works))
        elif is_matrix(out) and is_matrix(source):
            self._gather("gather", source, table, out)
        else:
            raise NotLowered(str(op))

    def _kernel_gather_scaled(self, op: Op) -> None:
        source, indices, scale, shift, out = op.inputs
        table = self._rows_of(indices)
        if table.strides[0] == 0 or source.dtype != np.uint8 or not is_matrix(out):
            raise NotLowered(str(op))
        # A shift of -0 changes nothing, and the formula leaves a shift of 0 out.
        self._gather("gather_scaled", source, table, out, float(scale), float(shift) or -0.0)

    def _gather(self, loop: str, source: Array, table: Array, out: Array, *numbers: float) -> None:
        split = None
        if address(out) in self.splits:
            self.splits[address(out)] = split = SplitBatch(out, summands_of(out.shape[1]))
        works: list[Work | list[Work] | None] = []
        for rows, columns in self._layout(out):
            cell, each, own = out[rows, columns], Each(table[:, rows]), source[:, columns]
            pieces = [(ALL, cell)] if split is None else list(split.pieces(cell))
            made = [
                self._work(loop, x.shape, [own[:, c], each, *numbers, x], [x]) for c, x in pieces
            ]
            works.append([work for work in made if work is not None])
        self.operations.append(of_parts(works))

    def _op_sum(self, op: Op) -> None:
        self._of_rows("row_sums", op)

    def _op_mean(self, op: Op) -> None:
        self._of_rows("row_means", op)

    def _op_max(self, op: Op) -> None:
        self._of_rows("row_maxima", op)

    def _of_rows(self, loop: str, op: Op) -> None:
        """A number for each row of a matrix, as a vector or, with `keepdims`, as a column."""
        x, out = op.inputs[0], op.output
        are_known = len(op.inputs) == 1 and is_matrix(x) and is_real(out)
        if not are_known or share(x, out) or x.size == 0:
            raise NotLowered(str(op))
        assert out is not None
        shapes = {(len(x),): {"axis": 1}, (len(x), 1): {"axis": 1, "keepdims": True}}
        if op.options != shapes.get(out.shape):
            raise NotLowered(str(op))
        works, column = [], out.reshape(-1, 1)
        for r, _ in by_samples(len(x)):
            works.append(self._work(loop, x[r].shape, [x[r], column[r]], [column[r]]))
        self.operations.append(of_parts(works))

    def _kernel_shift_logits(self, op: Op) -> None:
        logits, shifted = op.inputs
        are_known = is_matrix(logits) and is_matrix(shifted)
        if not are_known or shifted.shape != logits.shape[::-1]:
            raise NotLowered(str(op))
        works = [
            self._work(
                "shift_logits",
                logits[r].shape,
                [logits[r], shifted[:, r]],
                [shifted[:, r]],
            )
            for r, _ in by_samples(len(logits))
        ]
        self.operations.append(of_parts(works))
        self.layouts[key(shifted)] = [(ALL, r) for r, _ in by_samples(len(logits))]

    def _kernel_softmax_cross_entropy(self, op: Op) -> None:
        shifted, labels, smoothing, p, value = op.inputs
        are_known = is_like(shifted, p) and are_labels(labels, p.shape[1])
        if not are_known or value.dtype != np.float32:
            raise NotLowered(str(op))
        losses = np.zeros(p.shape[1])
        self.kept.append(losses)
        works = []
        for c, _ in by_samples(p.shape[1]):
            outs = [p[:, c], losses[c]]
            given = [shifted[:, c], labels[c], float(smoothing), *outs]
            shape = outs[0].shape[::-1]
            works.append(self._work("softmax_cross_entropy", shape, given, outs))
        self.operations.append(of_parts(works))
        mean = self._work("mean_loss", (len(losses), 1), [losses, value], [value])
        assert mean is not None
        self.late.append((value, single(mean)))

    def _kernel_softmax_cross_entropy_backward(self, op: Op) -> None:
        p, labels, smoothing, scale, out = op.inputs
        are_known = is_matrix(p) and is_matrix(out) and p.shape == out.shape[::-1]
        if not (are_known and are_labels(labels, len(out))):
            raise NotLowered(str(op))
        works = []
        for r, _ in by_samples(len(out)):
            given = [p[:, r], labels[r], float(smoothing), float(scale), out[r]]
            loop = "softmax_cross_entropy_backward"
            works.append(self._work(loop, out[r].shape, given, [out[r]]))
        self.operations.append(of_parts(works))
        self.layouts[key(out)] = by_samples(len(out))

    def _kernel_add_loss(self, op: Op) -> None:
        value, samples, total = op.inputs
        if value.dtype != np.float32 or total.dtype != np.float64:
            raise NotLowered(str(op))
        work = self._work("add_loss", (1, 1), [value, int(samples), total], [total])
        assert work is not None
        self.operations.append(single(work))

    def _kernel_count_hits(self, op: Op) -> None:
        logits, labels, hits = op.inputs
        if not (is_matrix(logits) and are_labels(labels, len(logits)) and hits.dtype == np.int64):
            raise NotLowered(str(op))
        works = [
            # Additions to `hits` are atomic: in any order.
            self._work(
                "count_hits",
                logits[r].shape,
                [logits[r], labels[r], hits],
                [],
            )
            for r, _ in by_samples(len(logits))
        ]
        self.operations.append(of_parts(works))
