"""One reader under Atheris: `python guided.py READER INPUTS FIGURES FOLDER [libFuzzer's options]`.

The mutations that reach a new branch of the reader, or of the Python code beneath it, are mutated
further. Ends with 0 after so many inputs, whose figures are then in the file FIGURES, or at the
first one that is answered wrongly.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["xpnet", "csv", "gzip", "json", "tomllib", "zipfile", "PIL"]
):
    import readers
    from numpy.lib import _format_impl

for function in (
    _format_impl._read_array_header,
    _format_impl.descr_to_dtype,
    _format_impl.read_array,
):
    atheris.instrument_func(function)

LONGEST = 1.0  # second of processor time

name, inputs, figures, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
tried = taken = 0
slowest = 0.0
began = time.monotonic()


def one(data: bytes) -> None:
    """Have the reader answer one input."""
    global tried, taken, slowest
    before = time.process_time()
    taken += readers.check(name, data, folder)
    took = time.process_time() - before
    slowest, tried = max(slowest, took), tried + 1
    if took > LONGEST:
        raise TimeoutError(f"{took:.1f} s of processor time for {len(data)} bytes")
    if tried == inputs:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = {
            "inputs": tried,
            "taken": taken,
            "seconds": time.monotonic() - began,
            "slowest": slowest,
            "peak": peak * 1024,
        }
        figures.write_text(json.dumps(found))


if __name__ == "__main__":
    # A reader that warns would fail the tests too.
    warnings.simplefilter("error")
    atheris.Setup([sys.argv[0], f"-runs={inputs}", *sys.argv[5:]], one)
    atheris.Fuzz()
