"""Where a measurement goes: printed as Markdown, and kept beside its figures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from xpnet._files import write_atomically

RESULTS = Path(__file__).resolve().parent / "results"


def publish(options: argparse.Namespace, stem: str, page: str, figures: dict[str, Any]) -> None:
    """Print `page`, and write `<stem>.md` and, with the figures, `<stem>.json`.

    Into the folder of the options, else into `bench/results/`; with `--quick` only into a folder
    that was given.
    """
    print(page)
    folder = options.folder or (None if options.quick else RESULTS)
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    data = json.dumps(figures, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / f"{stem}.json", data.encode())
    write_atomically(folder / f"{stem}.md", page.encode())
