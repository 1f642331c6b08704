"""Deletes or bends every statement of mathematics, one at a time: do the tests notice?

`python tests/support/mutants.py [--only FILE[:LINE] ...] [--jobs N]` proves that nobody can remove
a line of mathematics from the layers, losses and optimizers (`FILES`) while the suite stays green,
neither on NumPy nor on the double (`strict_cupy.py`). It writes `tests/MUTANTS.md`, of the files
named alone if some are, and exits with 1 if a mutant survives. It needs `fork`, so no Windows.

A statement (expression, assignment of any kind, return) is mathematics if it
- calls `xp.name(...)` or `array_module(...).name(...)`, allocations apart, or
- calls a function of ours that contains such a call (`_scale_rows`, `random.hash_bits`), or
- does arithmetic on Python numbers (operators, `FUNCTIONS` of `math`, `min`), or
- gives a name another name or a number (`direction = velocity`).
What only looks something up (`xp = array_module(x)`, a buffer of the workspace, a view), checks an
argument or makes the text of `__str__` is left out: without the first nothing runs at all. Kernels
are off here;
`tests/accel` compares them with the formulas.

Its mutants:
- delete: what is deleted is the computation, not the name. `xp.add(a, b, out=y)` becomes
  `pass`, `return xp.add(a, b, out=y)` becomes `return y` and `y = xp.add(a, b, out=y)` becomes
  `y = y`, which is harder to notice than a name that is missing;
- skip: one operation between Python numbers gives its first operand (`1 - rate`: `1`);
- swap: one operation is its opposite or neighbour, `add` for `subtract`, `*` for `/`, `>` for `≥`;
- numpy: one `xp.name` is `numpy.name`. Only the double can and must notice this one. Functions
  called `require_...` take arrays of the host, where the two are the same.

Every mutant is a copy of the package and the tests in a process of its own, forked from one
that has imported all that is slow. Tests on `numba` are left out. A test belongs to the double
if it has the fixture `double` or `backend` with that parameter, else to NumPy. The first failure
of each side ends that side. The tests that `FILES` names are tried first, among them those whose
names contain one that the file defines, and the other tests only where a side has not failed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from itertools import groupby
from pathlib import Path

import mutants_page
from mutants_made import FILES, ROOT, Mutant, mutants
from mutants_tried import import_slow_modules, judge, prepare


def chosen(only: list[str]) -> list[Mutant]:
    """The mutants of the files and lines named, `FILE` or `FILE:LINE`; without names, all."""
    planned = list(mutants(ROOT / "xpnet"))
    places = [{m.file, f"{m.file}:{m.line}"} for m in planned]
    if unknown := set(only).difference(*places):
        raise SystemExit(f"no mathematics at {', '.join(sorted(unknown))}: name it as MUTANTS.md")
    wanted = set(only) or set(FILES)
    return [mutant for mutant, named in zip(planned, places, strict=True) if named & wanted]


def main() -> int:
    parser = argparse.ArgumentParser(description="Which mutants of the mathematics survive?")
    parser.add_argument("--only", nargs="+", metavar="FILE[:LINE]", default=[])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once")
    options = parser.parse_args()
    planned = chosen(options.only)
    import_slow_modules()
    surviving = 0
    with tempfile.TemporaryDirectory() as name:
        snapshot = Path(name, "snapshot")
        seconds = prepare(snapshot)
        with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
            waiting = [(m, pool.apply_async(judge, (snapshot, m, seconds))) for m in planned]
            for file, group in groupby(waiting, lambda pair: pair[0].file):
                found, survive = [], 0
                is_whole = not options.only or file in options.only
                for mutant, result in group:
                    caught = result.get()
                    found.append((mutant, caught))
                    survives = len(caught) < len(mutant.sides)
                    survive += survives
                    if survives or not is_whole:
                        print(mutant, caught, flush=True)
                print(f"{file}: {len(found)} mutants, {survive} survive", flush=True)
                surviving += survive
                if is_whole:
                    mutants_page.merge(found, FILES)
    return int(bool(surviving))


if __name__ == "__main__":
    sys.exit(main())
