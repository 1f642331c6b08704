"""The kinds of planted bugs, and what says where one is planted; see `planted_bugs.py`."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = {
    "host scalar": "a value of the device is read on the host in a step, which waits and transfers",
    "missing wait": "work of one stream, or of the host, does not wait for what it needs",
    "unordered stream": "an operation is on a stream that nothing orders with the others",
    "out of range": "a gather or an index reaches beyond its array",
    "promotion": "a number has a narrower or a wider type than the formula says",
    "leading dimension": "cuBLAS gets a wrong leading dimension, transposition or stride",
    "freed buffer": "memory that a graph or a recorded call still uses is freed",
    "stale value": "what changes from step to step is copied when the step is recorded",
    "race": "the result depends on the order of threads or blocks",
    "wrong memory": "a step allocates, or an array of the host is among those of the device",
}


@dataclass(frozen=True)
class PlantedBug:
    """`old` in the file `xpnet/<file>` becomes `new`; `why` this is wrong on CUDA."""

    name: str
    kind: str
    file: str
    old: str
    new: str
    why: str
