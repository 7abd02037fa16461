"""The tests that the page of features names are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/features.md"


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE.read_text())
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][2:]
    assert len(named) == len(rows), "one test for every feature"
    for file, name in named:
        source = (ROOT / "packages/natten-core/tests" / file).read_text()
        assert f"\ndef {name}(" in source, f"{file} has no {name}"
