"""Results of the seconds measured: figures, Markdown, JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.peers import BY_NAME, COMPETITORS, NO_PEERS
from bench.timing import PAUSE, TOLERANCE, Measured

NOTHING = "—"
Results = dict[str, Any]


def collect(
    machine: dict[str, Any],
    measured: Sequence[Measured],
    idle: Mapping[str, dict[str, float]],
    device: str,
    repeats: int,
) -> Results:
    """All results, ready for JSON."""
    missing: dict[str, str] = {}
    about: dict[str, str] = {}
    for one in measured:
        missing |= one.missing
        about |= one.about
        machine["versions"] |= one.versions
    return {
        "device": device,
        "machine": machine,
        "method": {"repeats": repeats, "pause_s": PAUSE, "gate_tolerance": TOLERANCE},
        "about": about,
        "missing": missing,
        "idle_cpu_share": {
            name: round(seconds["cpu"] / seconds["wall"], 4)
            for name, seconds in idle.items()
            if name in about and seconds["wall"]
        },
        "workloads": [summarise(one) for one in measured],
    }


def summarise(measured: Measured) -> dict[str, Any]:
    """A workload's figures, from the medians of its repeats."""
    workload = measured.workload
    medians = {name: statistics.median(times) for name, times in measured.seconds.items()}
    floor = medians.get("floor")
    best = fastest_peer(medians)
    entries = {}
    for name, times in measured.seconds.items():
        low, _, high = _quartiles(times)
        entries[name] = {
            "us_per_step": 1e6 * medians[name],
            "quartiles_us": [1e6 * low, 1e6 * high],
            "samples_per_s": workload.batch / medians[name],
            "to_floor": medians[name] / floor if floor else None,
            "to_fastest_peer": medians[name] / medians[best] if best else None,
            "gate_deviation": measured.deviations.get(name),
            "note": measured.notes.get(name, ""),
            "repeats_us": [1e6 * seconds for seconds in times],
        }
    return {
        "name": workload.name,
        "title": workload.title,
        "fastest_peer": best,
        "entries": entries,
        "left_out": measured.left_out,
        "wrong": measured.wrong,
    }


def line(measured: Measured) -> str:
    """A workload in one line, fastest first: `W2: floor 98 µs, xpnet 170 µs, ...`."""
    medians = {name: statistics.median(times) for name, times in measured.seconds.items()}
    order = sorted(medians, key=medians.__getitem__)
    parts = [f"{name} {_number(1e6 * medians[name])} µs" for name in order]
    return f"{measured.workload.name}: {', '.join(parts)}"


def fastest_peer(medians: Mapping[str, float]) -> str | None:
    """The fastest of all but the floor and xpnet."""
    peers = {name: seconds for name, seconds in medians.items() if name not in NO_PEERS}
    return min(peers, key=peers.__getitem__) if peers else None


def _quartiles(times: Sequence[float]) -> list[float]:
    return statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else [*times] * 3


def markdown(results: Results) -> str:
    """The whole page: overview, a table per workload, each setup, what is missing."""
    parts = [
        f"# A step, on {place(results)}",
        introduction(results),
        "## Times the floor",
        overview(results),
    ]
    for workload in results["workloads"]:
        parts += [f"## {workload['name']}: {workload['title']}", table(workload, results)]
    parts += ["## How each is set up", _rows(["competitor", "setup"], set_up(results))]
    return "\n\n".join(part for part in parts if part) + "\n"


def place(results: Results) -> str:
    """`AMD EPYC, 2 cores` or the card."""
    machine = results["machine"]
    return machine.get("card") or f"{machine['processor']}, {machine['cores']} cores"


def introduction(results: Results) -> str:
    """The machine and the method."""
    machine, method = results["machine"], results["method"]
    versions = ", ".join(f"{name} {v}" for name, v in sorted(machine["versions"].items()))
    restless = [n for n, share in results["idle_cpu_share"].items() if share > 0.02]
    lines = [
        f"Medians of {method['repeats']} interleaved repeats, each after a warm-up of its own; "
        f"{machine['threads']} threads each; BLAS of NumPy: {', '.join(machine['blas'])}. "
        f"{card(machine)}{versions}.",
        "A step is everything between two batches: selection, forward and backward pass, update, "
        "loss and hits. *To the floor*: over the step's matrix products alone. *To the fastest "
        "peer*: over the fastest of all but xpnet and the floor.",
        f"Before the clock started, every competitor's losses agreed with xpnet's to "
        f"{method['gate_tolerance']:g} over the first steps, from the same weights and batches.",
    ]
    if restless:
        lines.append(f"Not idle while others ran: {', '.join(restless)}.")
    return "\n\n".join(lines)


def card(machine: dict[str, Any]) -> str:
    """The card and its driver, if there is a GPU."""
    if "card" not in machine:
        return ""
    names = ("driver", "cuda driver", "cuda runtime")
    details = ", ".join(f"{name} {machine[name]}" for name in names if name in machine)
    return f"{machine['card']}, {details}, products in {machine.get('precision', 'float32')}. "


def overview(results: Results) -> str:
    """A row per competitor, a column per workload: time divided by the floor."""
    workloads = results["workloads"]
    rows = []
    for competitor in COMPETITORS:
        if results["device"].partition(":")[0] not in competitor.devices:
            continue
        name = competitor.name
        if name in results["missing"]:
            rows.append([competitor.title, *["missing"] * len(workloads)])
        elif any(name in w["entries"] or name in w["left_out"] for w in workloads):
            rows.append(
                [
                    competitor.title,
                    *(_factor(w["entries"].get(name), "to_floor") for w in workloads),
                ]
            )
    return _rows(["", *(w["name"] for w in workloads)], rows)


def table(workload: dict[str, Any], results: Results) -> str:
    """The figures of one workload, fastest first; below them what was left out, and why."""
    entries = workload["entries"]
    rows = []
    for name in sorted(entries, key=lambda n: entries[n]["us_per_step"]):
        entry = entries[name]
        low, high = entry["quartiles_us"]
        note = f" ({entry['note']})" if entry["note"] else ""
        rows.append(
            [
                f"{BY_NAME[name].title}{note}",
                _number(entry["us_per_step"]),
                f"{_number(low)} to {_number(high)}",
                _number(entry["samples_per_s"]),
                _factor(entry, "to_floor"),
                _factor(entry, "to_fastest_peer"),
            ]
        )
    head = ["", "µs a step", "quartiles", "samples/s", "to the floor", "to the fastest peer"]
    without = workload["left_out"] | {n: f"missing: {r}" for n, r in results["missing"].items()}
    lines = [f"- {BY_NAME[name].title}: {reason}" for name, reason in without.items()]
    return _rows(head, rows) + ("\n\n" + "\n".join(lines) if lines else "")


def set_up(results: Results) -> list[list[str]]:
    """A row per competitor."""
    rows = [[BY_NAME[name].title, text] for name, text in results["about"].items()]
    for name, reason in results["missing"].items():
        rows.append([BY_NAME[name].title, f"missing: {reason}"])
    return rows


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _factor(entry: dict[str, Any] | None, key: str) -> str:
    return f"{entry[key]:.2f}" if entry and entry[key] else NOTHING


def _number(value: float) -> str:
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"
