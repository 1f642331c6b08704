"""The list of planted bugs is true of the package as it is now."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from planted_bugs import KINDS, PLANTED_BUGS, PlantedBug

PACKAGE = Path(__file__).parents[2] / "xpnet"


def test_there_are_forty_bugs_and_at_least_four_of_each_kind() -> None:
    assert len({bug.name for bug in PLANTED_BUGS}) == len(PLANTED_BUGS) == 40
    counts = Counter(bug.kind for bug in PLANTED_BUGS)
    assert counts.keys() == KINDS.keys()
    assert min(counts.values()) >= 4


@pytest.mark.parametrize("bug", PLANTED_BUGS, ids=lambda bug: bug.name)
def test_old_text_occurs_once(bug: PlantedBug) -> None:
    text = (PACKAGE / bug.file).read_text(encoding="utf-8")
    assert text.count(bug.old) == 1
    changed = text.replace(bug.old, bug.new)
    assert changed != text
    assert bug.why
    if bug.file.endswith(".py"):
        compile(changed, bug.file, "exec")
