"""Description of the machine that figures were measured on."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import threadpoolctl

from bench.worker import THREADS
from xpnet.backend import Backend
from xpnet.runs.summary import versions


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
        backend = Backend(device)
        runtime = backend.xp.cuda.runtime
        found["card"] = runtime.getDeviceProperties(backend.number)["name"].decode()
        found["driver"] = driver()
        found["cuda driver"] = runtime.driverGetVersion()
        found["cuda runtime"] = runtime.runtimeGetVersion()
        found["precision"] = "float32"
    return found


def driver() -> str:
    """The version of NVIDIA's driver, as the kernel gives it."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        text = ""
    name = re.search(r"\b(\d{3,}(?:\.\d+)+)\b", text)
    return name[1] if name else "unknown"


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    name = re.search(r"model name\s*:\s*(.+)", text)
    return name[1].strip() if name else platform.processor() or platform.machine()


def slug(machine: dict[str, Any]) -> str:
    """The machine as a part of a file name: `amd-epyc-2-cores`."""
    name = machine.get("card") or f"{machine['processor']} {machine['cores']} cores"
    return "-".join(re.findall(r"[a-z0-9]+", name.lower()))
