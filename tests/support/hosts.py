"""Two hosts for MPI ranks on one machine, which communicate by TCP; one of them can be cut off.

`Namespaces`: network namespaces with addresses of their own and a cable between them. `Loopback`:
two addresses of the loopback interface, for machines that do not allow namespaces; there a host is
cut off by stopping its processes. Shared memory is not used between hosts: to MPICH, ranks that
were started by another launcher are on another node.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path

MPIEXEC = Path(sysconfig.get_path("scripts"), "mpiexec")

TCP = {"MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp"}
"""Settings of MPICH: libfabric, with its provider for TCP."""

LAUNCHER = """#!/bin/sh
while [ "${{1#-}}" != "$1" ]; do shift; done  # options of ssh
shift  # the host: only the second one is not that of mpiexec
echo $$ > {pid}
exec {enter} sh -c "$*"
"""


class Loopback:
    """The hosts 127.0.0.1 and 127.0.0.2. `folder`: for the hosts file and the launcher."""

    ADDRESSES = ("127.0.0.1", "127.0.0.2")
    DEVICE = "lo"

    def __init__(self, folder: Path) -> None:
        self._pid = folder / "launched"
        self._cut_off: list[int] = []
        self._launcher, self._hosts = folder / "launcher", folder / "hosts"
        self._prepare()

    def _prepare(self, enter_first: str = "", enter_second: str = "") -> None:
        self._enter = enter_first.split()
        self._launcher.write_text(LAUNCHER.format(pid=self._pid, enter=enter_second))
        self._launcher.chmod(0o755)
        self._hosts.write_text("".join(f"{address}:2\n" for address in self.ADDRESSES))

    def command(self, *words: object) -> list[str]:
        """`words` on two ranks on each host, by an mpiexec on the first one."""
        self._pid.unlink(missing_ok=True)
        settings = [word for pair in TCP.items() for word in ("-genv", *pair)]
        launcher = ["-launcher", "ssh", "-launcher-exec", self._launcher, "-f", self._hosts]
        hydra = [*launcher, "-localhost", self.ADDRESSES[0], "-n", "4", *settings]
        return [*self._enter, *map(str, (MPIEXEC, *hydra, sys.executable, *words))]

    def processes(self) -> set[int]:
        """What `command` has started on the second host, and runs."""
        return family(int(self._pid.read_text())) if self._pid.exists() else set()

    def cut_off(self) -> set[int]:
        """The processes that were cut off, and run."""
        return {process for process in self._cut_off if process in family(process)}

    def sent(self) -> int:
        """How many bytes have left the first host by TCP."""
        devices = subprocess.run(
            [*self._enter, "cat", "/proc/net/dev"], capture_output=True, text=True, check=True
        )
        (line,) = (x for x in devices.stdout.splitlines() if x.strip().startswith(self.DEVICE))
        return int(line.split(":")[1].split()[8])

    def cut(self) -> None:
        """Nothing comes from the second host any more."""
        self._cut_off = sorted(self.processes())
        for process in self._cut_off:
            os.kill(process, signal.SIGSTOP)

    def mend(self) -> None:
        """The second host is there again."""
        for process in self.cut_off():
            os.kill(process, signal.SIGCONT)

    def close(self) -> None:
        """End what runs on the second host."""
        for process in self.processes() | self.cut_off():
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(process, signal.SIGKILL)


class Namespaces(Loopback):
    """The hosts 10.77.0.1 and 10.77.0.2. Raises `OSError` where the machine does not allow them."""

    ADDRESSES = ("10.77.0.1", "10.77.0.2")
    DEVICE = "xpnet0"

    def _prepare(self, enter_first: str = "", enter_second: str = "") -> None:
        # A user namespace of its own, so that root is not needed.
        self._residents = [_resident("unshare", "--map-root-user", "--net")]
        try:
            first = f"nsenter -t {self._residents[0].pid} -U -n --preserve-credentials"
            self._residents.append(_resident(*first.split(), "unshare", "--net"))
            second = f"nsenter -t {self._residents[1].pid} -n"
            peer = f"peer name {self.DEVICE} netns {self._residents[1].pid}"
            _run(f"{first} ip link add {self.DEVICE} type veth {peer}")
            for enter, address in zip((first, f"{first} {second}"), self.ADDRESSES, strict=True):
                _run(f"{enter} ip addr add {address}/24 dev {self.DEVICE}")
                _run(f"{enter} ip link set lo up")
                _run(f"{enter} ip link set {self.DEVICE} up")
        except OSError:
            self._end_residents()
            raise
        super()._prepare(first, second)

    def cut(self) -> None:
        """The cable is out."""
        self._cut_off = sorted(self.processes())
        _run(f"{' '.join(self._enter)} ip link set {self.DEVICE} down")

    def mend(self) -> None:
        """The cable is in again."""
        _run(f"{' '.join(self._enter)} ip link set {self.DEVICE} up")

    def close(self) -> None:
        """End what runs on the second host, and both namespaces."""
        super().close()
        self._end_residents()

    def _end_residents(self) -> None:
        for resident in self._residents:
            resident.kill()
            resident.communicate()


def family(root: int) -> set[int]:
    """A process and its descendants, those that run."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in listed.stdout.splitlines()]
    found, size = {root}, 0
    while len(found) > size:
        size = len(found)
        found |= {int(pid) for pid, parent, _ in rows if int(parent) in found}
    return {int(pid) for pid, _, state in rows if int(pid) in found and state[0] != "Z"}


def _resident(*words: str) -> subprocess.Popen[str]:
    """A process in a new namespace, which exists as long as it does."""
    resident = subprocess.Popen(
        [*words, "sh", "-c", "echo; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if not resident.stdout.readline():
        raise OSError(resident.communicate()[1])
    return resident


def _run(command: str) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr)
