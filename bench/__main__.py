"""`python -m bench`: the time of a training step in xpnet and in its peers, on this machine.

    python -m bench                         every workload, every peer, about twenty minutes
    python -m bench --workload W2 W3 --peer torch jax-scan
    python -m bench contended | defaults | end-to-end | epochs | footprint | late-epochs
    python -m bench ranks | scaling
    python -m bench speedrun | speedrun-99

Each competitor runs in its own process, and they are interleaved: one repeat each, round after
round, so that noise of the machine affects all equally. Before timing, the losses of each must
agree with xpnet's. A whole run writes `bench/results/`; a part only prints, unless `--folder` names
where to write: there it is merged with the workloads that the same machine measured before, so that
a long run can be divided into several.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from bench import machine, plot, tables
from bench.choices import choose_competitors, choose_workloads
from bench.timing import Workers, measure
from bench.worker import THREADS
from bench.workloads import WORKLOADS, quick
from xpnet._files import write_atomically
from xpnet.backend import Backend
from xpnet.cli import console
from xpnet.errors import ConfigError

RESULTS = Path(__file__).resolve().parent / "results"
OTHERS = ("contended", "defaults", "end-to-end", "epochs", "footprint", "late-epochs")
OTHERS += ("ranks", "scaling", "speedrun", "speedrun-99")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    options = parse(argv)
    if options.what != "steps":
        name = options.what.removesuffix("-99").replace("-", "_")
        other = import_module(f"bench.{name}")
        return int(other.run(options))
    Backend(options.device)
    competitors = choose_competitors(options.peer, options.device)
    workloads = choose_workloads(options.workload)
    whole = not (options.peer or options.workload or options.quick)
    if options.quick:
        workloads = [quick(workload) for workload in workloads]
    # On a busy machine, threads that wait for each other take long.
    threads = 1 if options.quick else THREADS
    measured = []
    with Workers(competitors, options.device, threads) as workers:
        for workload in workloads:
            measured.append(measure(workers.all, workload, options.repeats, say))
            say("")
            print(tables.line(measured[-1]), flush=True)
    found = tables.collect(
        machine.describe(options.device),
        measured,
        {name: worker.idle for name, worker in workers.all.items()},
        options.device,
        options.repeats,
    )
    print(tables.markdown(found))
    folder = options.folder or (RESULTS if whole else None)
    if folder is not None:
        save(found if whole else with_earlier(found, folder), folder)
    wrong = sorted({name for one in measured for name in one.wrong})
    if wrong:
        print(f"bench: the gate failed for {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("what", nargs="?", choices=("steps", *OTHERS), default="steps")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workload", nargs="+", action="extend", default=[], metavar="W")
    parser.add_argument("--peer", nargs="+", action="extend", default=[], metavar="NAME")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: figures mean nothing")
    parser.add_argument("--folder", type=Path, help="where to write the results")
    options = parser.parse_args(argv)
    if options.repeats < 1:
        raise ConfigError(f"repeats must be a whole number above 0, found {options.repeats}")
    return options


def with_earlier(found: tables.Results, folder: Path) -> tables.Results:
    """`found`, merged with other workloads in `folder` if machine and method are the same."""
    path = _path(found, folder)
    if not path.exists():
        return found
    earlier = json.loads(path.read_text(encoding="utf-8"))
    if any(_setting(earlier)[key] != value for key, value in _setting(found).items()):
        return found
    by_name = {one["name"]: one for one in [*earlier["workloads"], *found["workloads"]]}
    order = [workload.name for workload in WORKLOADS]
    joined = {key: earlier[key] | found[key] for key in ("about", "missing", "idle_cpu_share")}
    versions = earlier["machine"]["versions"] | found["machine"]["versions"]
    return (
        found
        | joined
        | {"machine": found["machine"] | {"versions": versions}}
        | {"workloads": sorted(by_name.values(), key=lambda one: order.index(one["name"]))}
    )


def _setting(found: tables.Results) -> dict[str, object]:
    """What must be equal for figures to be compared; versions of peers may differ."""
    versions = {key: found["machine"]["versions"].get(key) for key in machine.versions()}
    return {
        "method": found["method"],
        "machine": {key: v for key, v in found["machine"].items() if key != "versions"},
        "versions": versions,
    }


def _path(found: tables.Results, folder: Path) -> Path:
    kind = found["device"].partition(":")[0]
    return folder / f"{kind}-{machine.slug(found['machine'])}.json"


def save(found: tables.Results, folder: Path) -> None:
    """JSON, Markdown and plot."""
    folder.mkdir(parents=True, exist_ok=True)
    kind, page = found["device"].partition(":")[0], tables.markdown(found)
    data = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    write_atomically(_path(found, folder), data.encode())
    write_atomically(folder / f"{kind}.md", page.encode())
    plot.draw(found, folder / f"{kind}.png")


def say(text: str) -> None:
    """Show what is being done, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(console.run(main))
