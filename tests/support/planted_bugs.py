"""Forty bugs that only CuPy or CUDA shows, as data; `run_planted_bugs.py` tries them.

The list was committed before any detector was tuned or tried on it. Each bug replaces text that
occurs exactly once in its file (`tests/accel/test_planted_bugs.py` checks this), leaves the results
on NumPy right, and on a GPU changes a result, an error, a transfer, a synchronisation or the life
of a buffer.
"""

from __future__ import annotations

from planted_kernels import OUT_OF_RANGE, PROMOTIONS, RACES, STALE_VALUES
from planted_kinds import KINDS, PlantedBug

__all__ = ["KINDS", "PLANTED_BUGS", "PlantedBug"]

HOST_SCALARS = (
    PlantedBug(
        "scalars compared before they are copied",
        "host scalar",
        "training/update.py",
        "            self.copyto(own_scalars, scalars)\n",
        "            if (own_scalars != scalars).any():\n"
        "                self.copyto(own_scalars, scalars)\n",
        "`if` of a device array waits for the device and transfers a bool in every step",
    ),
    PlantedBug(
        "augmentation asks the device which distortions are on",
        "host scalar",
        "training/augmentation.py",
        "        if self.rotation or self.shear:\n",
        "        assert self._constants is not None\n"
        "        strengths = self._constants.strengths\n"
        "        if strengths[2] or strengths[4]:\n",
        "`or` of device arrays waits for the device and transfers up to twice for each batch",
    ),
    PlantedBug(
        "prediction looks for NaN on a GPU",
        "host scalar",
        "network/predictor.py",
        "taken(network, x, check=True), look=False)",
        "taken(network, x, check=True), look=True)",
        "every block of 768 rows waits for the device to read whether its outputs are finite",
    ),
    PlantedBug(
        "sum of weights compared with 0",
        "host scalar",
        "losses/base.py",
        "        xp.sum(weights, out=value)\n",
        "        xp.sum(weights, out=value)\n"
        "        if not value:\n"
        '            raise DataError("the weights of a batch are all 0: give weights above 0")\n',
        "`if` of a device array waits for the device and transfers in every weighted step",
    ),
)

MISSING_WAITS = (
    PlantedBug(
        "the warm-up does not wait for the current stream",
        "missing wait",
        "accel/cuda_graph.py",
        "        self.stream.wait_event(outside.record())\n",
        "",
        "the stream of the graphs is non-blocking: its kernels may run before the batch is there",
    ),
    PlantedBug(
        "the current stream does not wait for the warm-up",
        "missing wait",
        "accel/cuda_graph.py",
        "        outside.wait_event(self.stream.record())\n",
        "",
        "the next step may read the weights, or overwrite the batch, while the warm-up runs",
    ),
    PlantedBug(
        "a pinned copy to the host is not waited for",
        "missing wait",
        "backend/__init__.py",
        "        return array if isinstance(array, numpy.ndarray)"
        " else numpy.asarray(array.get())\n",
        "        if isinstance(array, numpy.ndarray):\n"
        "            return array\n"
        "        from cupyx import empty_pinned\n\n"
        "        pinned: HostArray = empty_pinned(array.shape, array.dtype)\n"
        "        array.get(out=pinned, blocking=False)\n"
        "        return pinned\n",
        "into pinned memory the copy is asynchronous: the host reads before it is done",
    ),
    PlantedBug(
        "synchronize waits for the null stream",
        "missing wait",
        "backend/__init__.py",
        "                self.xp.cuda.get_current_stream().synchronize()\n",
        "                self.xp.cuda.Stream.null.synchronize()\n",
        "the null stream does not wait for a non-blocking one that is the current stream",
    ),
)

UNORDERED_STREAMS = (
    PlantedBug(
        "graphs are launched on their own stream",
        "unordered stream",
        "accel/cuda_graph.py",
        "            launch: Call = self.stream.capture(self.calls).launch\n",
        "            graph = self.stream.capture(self.calls)\n"
        "            launch: Call = lambda: graph.launch(self.stream.stream)  # noqa: E731\n",
        "the batch and the scalars are copied on the current stream, unordered with the graph",
    ),
    PlantedBug(
        "the cuBLAS handle has no stream",
        "unordered stream",
        "accel/cublas.py",
        "        cublas.set_stream(self._handle, stream.ptr)\n",
        "",
        "products run on the null stream: not in order with the kernels, and not captured",
    ),
    PlantedBug(
        "products of a precision on a stream of their own",
        "unordered stream",
        "accel/cublas.py",
        "Products(backend.xp, backend.xp.cuda.get_current_stream(), precision)",
        "Products(backend.xp, backend.xp.cuda.Stream(non_blocking=True), precision)",
        "a product may run before its factors are there, and after its result is read",
    ),
    PlantedBug(
        "transfers to the device on a stream of their own",
        "unordered stream",
        "backend/__init__.py",
        "        with self.current():\n"
        "            return self.xp.asarray(shared(array, self.xp), dtype=dtype)\n",
        "        if self.xp is numpy:\n"
        "            return numpy.asarray(shared(array), dtype=dtype)\n"
        "        with self.current(), self.xp.cuda.Stream(non_blocking=True):\n"
        "            return self.xp.asarray(shared(array, self.xp), dtype=dtype)\n",
        "the kernels of the current stream may read the array before it is transferred",
    ),
)

LEADING_DIMENSIONS = (
    PlantedBug(
        "leading dimension of a transposed matrix",
        "leading dimension",
        "accel/cublas.py",
        "        return 1, rows\n",
        "        return 1, columns\n",
        "an array that lies by columns has `rows` elements between two columns",
    ),
    PlantedBug(
        "leading dimension of the result",
        "leading dimension",
        "accel/cublas.py",
        "        third, tail = (out.data.ptr, kind, columns)",
        "        third, tail = (out.data.ptr, kind, rows)",
        "cuBLAS counts by columns: the rows of `out` are its columns, of `columns` elements",
    ),
    PlantedBug(
        "transpositions exchanged",
        "leading dimension",
        "accel/cublas.py",
        "        head = (self._handle, turn_b, turn_a, columns, rows, inner)\n",
        "        head = (self._handle, turn_a, turn_b, columns, rows, inner)\n",
        "`b` is the first factor of cuBLAS, and `a` the second",
    ),
    PlantedBug(
        "one matrix strides through a stack",
        "leading dimension",
        "accel/cublas.py",
        "        apart = inner * columns, rows * inner if a.ndim == 3 else 0, rows * columns\n",
        "        apart = inner * columns, rows * inner, rows * columns\n",
        "the one matrix `a` is multiplied with each of `b`: its stride is 0, beyond it is no `a`",
    ),
)

FREED_BUFFERS = (
    PlantedBug(
        "a captured step lets its calls go",
        "freed buffer",
        "accel/cuda_graph.py",
        "            return None\n        return launch\n",
        "            return None\n        self.recorded = self.calls = ()\n        return launch\n",
        "a graph holds addresses alone: buffers that a workspace replaces by larger ones are freed",
    ),
    PlantedBug(
        "captured calls allocate from the common pool",
        "freed buffer",
        "accel/cuda_graph.py",
        "        with self.stream, self.xp.cuda.using_allocator(self.pool.malloc):\n",
        "        with self.stream:\n",
        "temporary memory of captured calls is given to others, or back to the driver",
    ),
    PlantedBug(
        "the workspace of cuBLAS is local",
        "freed buffer",
        "accel/cublas.py",
        "        self._workspace = xp.empty(workspace_bytes(xp), dtype=xp.uint8)\n"
        "        # In this order: a new stream brings the workspace of all streams back.\n"
        "        cublas.set_stream(self._handle, stream.ptr)\n"
        "        cublas.set_workspace(self._handle, self._workspace.data.ptr,"
        " self._workspace.nbytes)\n",
        "        workspace = xp.empty(workspace_bytes(xp), dtype=xp.uint8)\n"
        "        # In this order: a new stream brings the workspace of all streams back.\n"
        "        cublas.set_stream(self._handle, stream.ptr)\n"
        "        cublas.set_workspace(self._handle, workspace.data.ptr, workspace.nbytes)\n",
        "cuBLAS writes partial sums into memory that other arrays have by then",
    ),
    PlantedBug(
        "the factors of a product are temporary",
        "freed buffer",
        "accel/cublas.py",
        "        one = self._factors[dtype].ctypes.data\n",
        "        one = numpy.array([1, 0], dtype).ctypes.data\n",
        "the call keeps the address of alpha and beta, not the array: both are garbage later",
    ),
)

WRONG_MEMORY = (
    PlantedBug(
        "the scalars of each step transferred by themselves",
        "wrong memory",
        "training/update.py",
        "                yield order[step * size : (step + 1) * size], table[step]\n",
        "                optimizer, backend = self.trainer.optimizer, self.data.backend\n"
        "                scalars = backend.asarray(optimizer.scalars(run.step), table.dtype)\n"
        "                yield order[step * size : (step + 1) * size], scalars\n",
        "each step allocates an array and transfers it, in place of one table an epoch",
    ),
    PlantedBug(
        "scalars uploaded as a new array",
        "wrong memory",
        "optimizers/base.py",
        "        for place, number in enumerate(numbers):\n"
        "            scalars[place : place + 1].fill(number)\n",
        "        xp.copyto(scalars, xp.asarray(numbers, dtype=values.dtype))\n",
        "each update of a loop of the user's own allocates an array and transfers it",
    ),
    PlantedBug(
        "normalisation by feature stays on the host",
        "wrong memory",
        "training/device_data.py",
        "else backend.asarray(value, dtype=self.dtype)\n            for value",
        "else numpy.asarray(value, dtype=self.dtype)\n            for value",
        "CuPy refuses to multiply the rows by an array of NumPy",
    ),
    PlantedBug(
        "a gradient read as if it were on the host",
        "wrong memory",
        "training/running_metrics.py",
        "network.backend.to_host(gradient).astype(numpy.float64)",
        "numpy.asarray(gradient, numpy.float64)",
        "CuPy refuses the conversion: a TypeError takes the place of the DivergenceError",
    ),
)

PLANTED_BUGS = (
    *HOST_SCALARS,
    *MISSING_WAITS,
    *UNORDERED_STREAMS,
    *OUT_OF_RANGE,
    *PROMOTIONS,
    *LEADING_DIMENSIONS,
    *FREED_BUFFERS,
    *STALE_VALUES,
    *RACES,
    *WRONG_MEMORY,
)
