"""Execute a notebook by a kernel of this Python: `python tests/support/notebooks.py PATH` writes it
again.

Needs nbclient and ipykernel. What differs from one machine to the next for no reason (times of
cells, the version of Python) is left out of the file.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

PATIENCE = 300


class Client(NotebookClient):
    """Executes, and keeps all that the kernel sent, also what was written over later."""

    def __init__(self, notebook: nbformat.NotebookNode, **options: Any) -> None:
        super().__init__(notebook, **options)
        self.sent: list[dict[str, Any]] = []

    def process_message(self, msg: dict[str, Any], *more: Any) -> Any:
        self.sent.append(msg)
        return super().process_message(msg, *more)


def execute(notebook: nbformat.NotebookNode, folder: Path) -> Client:
    """Execute `notebook` in place, with `folder` as its folder. Raises where a cell does."""
    client = Client(
        notebook,
        kernel_name="python3",
        timeout=PATIENCE,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    with nobodys_settings():
        client.execute()
    return client


@contextmanager
def nobodys_settings() -> Iterator[None]:
    """A Jupyter that knows no kernel but this Python's and no settings of the user."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as home:
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            os.environ[name] = str(Path(home) / name)
        os.environ |= {"JUPYTER_PREFER_ENV_PATH": "1", "MPLBACKEND": "Agg"}
        os.environ.pop("JUPYTER_PATH", None)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def main(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, Path(folder))
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
