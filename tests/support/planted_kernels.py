"""Planted bugs of indices, dtypes, copies and races, most of them in kernels: `planted_bugs.py`."""

from __future__ import annotations

from planted_kinds import PlantedBug

OUT_OF_RANGE = (
    PlantedBug(
        "labels on a GPU are not checked",
        "out of range",
        "training/fit_data.py",
        "    require_targets(network.backend.to_host(target), network, loss, name)\n",
        '    if network.backend.device == "cpu":  # on a GPU this would wait\n'
        "        require_targets(network.backend.to_host(target), network, loss, name)\n",
        "the kernel of the loss reads `row[label]` beyond the logits, and nothing reports it",
    ),
    PlantedBug(
        "gather over the rows of the source",
        "out of range",
        "accel/cuda_kernels.py",
        "    sizes = (*x.shape, target.size // len(x))\n",
        "    sizes = (*source.shape, target.size // len(x))\n",
        "the kernel reads indices and writes rows of the batch beyond their arrays",
    ),
    PlantedBug(
        "noise for one feature more where their number is odd",
        "out of range",
        "accel/cuda_kernels.cu",
        "            if (half + j < features) y[i + half] = sin(angle) * radius + x[i + half];\n",
        "            y[i + half] = sin(angle) * radius + x[i + half];\n",
        "it writes into the next row, which another block writes too, and beyond the last one",
    ),
    PlantedBug(
        "uint8 taken for char",
        "out of range",
        "accel/cuda_launch.py",
        '    "u1": "unsigned char",\n',
        '    "u1": "char",\n',
        "`char` is signed: labels and pixels from 128 on are negative, and so are indices by them",
    ),
)

PROMOTIONS = (
    PlantedBug(
        "bfloat16 computed as float16",
        "promotion",
        "accel/cublas.py",
        '"bfloat16": 75}',
        '"bfloat16": 74}',
        "74 is CUBLAS_COMPUTE_32F_FAST_16F: factors beyond 65504 become infinite",
    ),
    PlantedBug(
        "sums over a batch have the precision of products",
        "promotion",
        "accel/cublas.py",
        "        if _is_reducible(a, b):\n            compute",
        '        if dtype == "float32":\n            compute',
        "the gradients of biases are products with ones, and lose 13 or 16 bits",
    ),
    PlantedBug(
        "numbers are not converted to the dtype of a kernel",
        "promotion",
        "accel/cuda_launch.py",
        "        number = dtypes.pop().type\n"
        '        return launches(*(number(a) if kind == "float" else a for a, kind in pairs))\n',
        "        return launches(*arguments)\n",
        "CuPy passes a Python int as 8 bytes: a kernel that expects a float reads 1 as 1.4e-45",
    ),
    PlantedBug(
        "a double constant in a float kernel",
        "promotion",
        "accel/cuda_kernels.cu",
        "dx[i] = (1 - y[i] * y[i]) * dy[i];",
        "dx[i] = (1.0 - y[i] * y[i]) * dy[i];",
        "float32 is computed in double: other bits than the formula, at 1/64 of the speed",
    ),
)

STALE_VALUES = (
    PlantedBug(
        "dropout reads a copy of the counter",
        "stale value",
        "accel/cuda_kernels.py",
        "    arguments = (x, counter, units, threshold, scale, mask, y, *x.shape)\n",
        "    arguments = (x, counter.copy(), units, threshold, scale, mask, y, *x.shape)\n",
        "the copy is made when the launch is recorded: all replayed steps have the same mask",
    ),
    PlantedBug(
        "Adam converts its scalars",
        "stale value",
        "accel/cuda_kernels.py",
        "    arguments = (values, gradients, first, second, scalars, beta1, beta2, size)\n",
        "    scalars = scalars.astype(values.dtype)\n"
        "    arguments = (values, gradients, first, second, scalars, beta1, beta2, size)\n",
        "`astype` copies when the launch is recorded: the learning rate stays that of this step",
    ),
    PlantedBug(
        "the gradient of the loss converts its labels",
        "stale value",
        "accel/cuda_kernels.py",
        "    arguments = (p, labels, smoothing, scale, dlogits, *dlogits.shape)\n",
        '    labels = labels.astype("int32")\n'
        "    arguments = (p, labels, smoothing, scale, dlogits, *dlogits.shape)\n",
        "`astype` copies when the launch is recorded: later batches have the labels of this one",
    ),
    PlantedBug(
        "factors of a product copied into rows",
        "stale value",
        "accel/cublas.py",
        "        (turn_b, step_b), (turn_a, step_a) = _lies(b, inner, columns),"
        " _lies(a, rows, inner)\n",
        "        a, b = self.xp.ascontiguousarray(a), self.xp.ascontiguousarray(b)\n"
        "        (turn_b, step_b), (turn_a, step_a) = _lies(b, inner, columns),"
        " _lies(a, rows, inner)\n",
        "a transposed factor is copied when the graph is made, and this copy multiplied from then",
    ),
)

RACES = (
    PlantedBug(
        "the largest is read before it is there",
        "race",
        "accel/cuda_kernels.cu",
        "    __syncthreads();\n    mine = part[0];\n",
        "    mine = part[0];\n",
        "threads of other warps read `part[0]` while thread 0 still compares it with `part[1]`",
    ),
    PlantedBug(
        "the sum is read before it is there",
        "race",
        "accel/cuda_kernels.cu",
        "    __syncthreads();  // thread 0 has written the sum before the others read it\n"
        "    T summed = part[0];\n",
        "    T summed = part[0];\n",
        "threads of other warps read `part[0]` before thread 0 has written the sum",
    ),
    PlantedBug(
        "hits added without an atomic operation",
        "race",
        "accel/cuda_kernels.cu",
        "atomicAdd((Long*)hits, (Long)found);",
        "hits[0] += found;",
        "of blocks that read the same number, one addition is lost",
    ),
    PlantedBug(
        "every thread moves the running statistics",
        "race",
        "accel/cuda_kernels.cu",
        "        if (threadIdx.x == 0) {\n            T unbiased",
        "        {\n            T unbiased",
        "threads of later warps move what earlier ones have moved already",
    ),
)
