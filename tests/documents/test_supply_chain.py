"""What comes from outside: nothing unless it is asked for, and then verified; and the audit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import audit
import pytest

from xpnet.data import catalogue
from xpnet.errors import DataError

# An audit hook is called for every socket in the process, and cannot be removed.
OFFLINE = """
import os, runpy, sys
def hook(event, arguments):
    if event.startswith("socket."):
        os.write(2, f"NETWORK: {event} {arguments}\\n".encode())
        os._exit(99)
sys.addaudithook(hook)
sys.argv = ["xpnet.train", *sys.argv[1:]]
runpy.run_module("xpnet.train", run_name="__main__", alter_sys=True)
"""


def offline(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """`python -m xpnet.train` in a process that ends with 99 at the first socket or look-up."""
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "HOME": str(folder)}
    environment.pop("XPNET_DATA", None)
    return subprocess.run(
        [sys.executable, "-c", OFFLINE, *argv],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_default_command_needs_no_network(tmp_path: Path) -> None:
    done = offline(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "NETWORK" not in done.stderr
    assert (tmp_path / "runs" / "digits-001" / "model.safetensors").exists()


def test_a_data_set_that_is_asked_for_by_name_does(tmp_path: Path) -> None:
    """And so the hook above is heard."""
    done = offline(tmp_path, "--dataset", "mnist")
    assert done.returncode == 99, done.stderr
    assert "NETWORK: socket." in done.stderr


def test_what_is_downloaded_has_a_digest_and_comes_by_https() -> None:
    assert all(mirror.startswith("https://") for mirror in catalogue._MIRRORS)
    assert set(catalogue.MNIST_SHA256) == set(catalogue.IDX_FILES)
    digests = [*catalogue.MNIST_SHA256.values(), catalogue.DIGITS_SHA256]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


class Refused(Exception):
    """Instead of a request."""


def test_the_one_door_to_the_network_takes_https_and_follows_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    asked: list[dict[str, Any]] = []

    def get(url: str, **options: Any) -> None:
        asked.append({"url": url, **options})
        raise Refused

    monkeypatch.setattr(requests, "get", get)
    for url in ("http://example.org/a.gz", "ftp://example.org/a.gz", "file:///etc/passwd"):
        with pytest.raises(DataError, match="HTTPS"):
            catalogue._fetch(url, tmp_path / "a")
    assert not asked
    with pytest.raises(Refused):
        catalogue._fetch("https://example.org/a.gz", tmp_path / "a")
    (options,) = asked
    # A mirror could send us on to one that speaks no HTTPS.
    assert options["allow_redirects"] is False
    assert options.get("verify", True) is True
    assert options["timeout"] > 0


def test_nothing_else_in_the_package_speaks_to_the_network() -> None:
    speaks = re.compile(r"\b(urlopen|urlretrieve|requests|httpx|socket|http\.client|ftplib)\b")
    package = Path(catalogue.__file__).parents[1]
    found = {
        path.name: line
        for path in package.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(import|from)\b", line) and speaks.search(line)
    }
    assert not found
    modules = [path.name for path in package.rglob("*.py") if "Downloader(" in path.read_text()]
    assert modules == ["catalogue.py"]


def entry(name: str, *holes: str, **more: Any) -> dict[str, Any]:
    found = [{"id": hole, "aliases": [f"CVE-{hole}"], "fix_versions": ["2"]} for hole in holes]
    return {"name": name, "version": "1", "vulns": found} | more


ASKED = ["a==1", "b-c==1"]
SKIPPED = {"name": "b_c", "skip_reason": "not found on PyPI"}


@pytest.mark.parametrize(
    ("dependencies", "code", "words"),
    [
        ([entry("a"), entry("b_c")], 0, "2 of 2 distributions audited: clean"),
        ([entry("a", "P-1"), entry("B.c")], 1, "a 1: P-1, fixed in 2: NOT EXPLAINED"),
        ([entry("a", "P-7"), entry("b-c")], 0, "a 1: P-7, fixed in 2: not called"),
        ([entry("a", "8"), entry("b-c")], 0, "8, fixed in 2: by its alias"),
        ([entry("a", "P-7", "P-1"), entry("b-c")], 1, "NOT EXPLAINED"),
        ([entry("a"), SKIPPED], 1, r"b_c: skipped \(not found on PyPI\)"),
        ([entry("a")], 1, "b-c: not answered for"),
        ([SKIPPED], 2, "nothing could be audited"),
        ([], 2, "nothing could be audited"),
        (None, 2, "nothing could be audited"),
    ],
)
def test_the_audit_is_clean_only_where_all_was_audited(
    dependencies: list[dict[str, Any]] | None,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit, "EXPLAINED", {"P-7": "not called", "CVE-8": "by its alias"})
    report = "" if dependencies is None else json.dumps({"dependencies": dependencies})
    found, lines = audit.judge(report, ASKED)
    assert found == code
    assert re.search(words, "\n".join(lines))


def test_the_audit_asks_about_what_is_installed() -> None:
    asked = audit.pins()
    names = {pin.partition("==")[0] for pin in asked}
    assert {"numpy", "pandas", "pillow", "safetensors", "pooch"} <= names
    assert "xpnet" not in names
    assert not any("+" in pin for pin in asked)
