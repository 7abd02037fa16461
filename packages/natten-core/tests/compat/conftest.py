from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest

import natten_core.compat
from natten_core.compat import switches


@pytest.fixture
def natten(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """`import natten` as the version in the test's `natten` parameter, and as before afterwards."""
    natten_core.compat.install(request.param)
    try:
        yield importlib.import_module("natten")
    finally:
        natten_core.compat.uninstall()
        switches.NattenContext.reset()
        switches.AutotunerContext.reset()
