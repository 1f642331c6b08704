"""The workloads and competitors that the options of a command name."""

from __future__ import annotations

from collections.abc import Sequence

from bench.peers import BY_NAME, COMPETITORS, NO_PEERS, Competitor
from bench.workloads import WORKLOADS, Workload
from xpnet.errors import ConfigError


def choose_competitors(names: Sequence[str], device: str) -> list[Competitor]:
    """The floor, xpnet and the peers named, or all that run on the device."""
    kind = device.partition(":")[0]
    able = [competitor for competitor in COMPETITORS if kind in competitor.devices]
    if unknown := set(names) - {competitor.name for competitor in able}:
        there = ", ".join(competitor.name for competitor in able)
        raise ConfigError(f"no peer {', '.join(sorted(unknown))} on {kind}; there are {there}")
    wanted = {*names, *NO_PEERS} if names else set(BY_NAME)
    return [competitor for competitor in able if competitor.name in wanted]


def choose_workloads(names: Sequence[str]) -> list[Workload]:
    """Those named, `W3` meaning `W3` and `W3-dropout`, or all."""
    families = {workload.name.partition("-")[0] for workload in WORKLOADS}
    known = {workload.name for workload in WORKLOADS} | families
    if unknown := set(names) - known:
        raise ConfigError(
            f"no workload {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}"
        )
    return [
        workload
        for workload in WORKLOADS
        if not names or workload.name in names or workload.name.partition("-")[0] in names
    ]
