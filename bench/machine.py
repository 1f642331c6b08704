"""On what a figure was measured."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import threadpoolctl

from bench.worker import THREADS
from xpnet.backend import Backend
from xpnet.report import versions


def describe(device: str) -> dict[str, Any]:
    """Processor, cores, threads, BLAS and versions; for `cuda` the card and its driver too."""
    found: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": THREADS,
        "blas": sorted(
            f"{pool['internal_api']} {pool['version']} ({pool.get('architecture', '?')})"
            for pool in threadpoolctl.threadpool_info()
            if pool["user_api"] == "blas"
        ),
        "versions": versions(),
    }
    if device != "cpu":
        cupy = Backend(device).xp
        runtime = cupy.cuda.runtime
        found["card"] = runtime.getDeviceProperties(runtime.getDevice())["name"].decode()
        found["cuda driver"] = runtime.driverGetVersion()
        found["cuda runtime"] = runtime.runtimeGetVersion()
        found["tf32"] = os.environ.get("CUPY_TF32", "0")
    return found


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    name = re.search(r"model name\s*:\s*(.+)", text)
    return name[1].strip() if name else platform.processor() or platform.machine()


def slug(machine: dict[str, Any]) -> str:
    """A file name of it: `amd-epyc-2-cores`."""
    name = machine.get("card") or f"{machine['processor']} {machine['cores']} cores"
    return "-".join(re.findall(r"[a-z0-9]+", name.lower()))
