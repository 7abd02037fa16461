from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))

import cuda_builder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = cuda_builder.unavailable()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            # Whichever comes first compiles the kernels, which takes minutes on a busy machine.
            item.add_marker(pytest.mark.timeout(1800))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))
