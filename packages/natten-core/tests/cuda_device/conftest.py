from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))

from cuda_runs import OBSTACLES, use


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if OBSTACLES and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="; ".join(OBSTACLES)))


@pytest.fixture(autouse=True)
def _any_family() -> Iterator[None]:
    yield
    if not OBSTACLES:
        use("")
