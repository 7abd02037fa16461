from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "support"))

from natten_core import _loader

# The problems are small: threads only get in each other's way, but where they are what is tested.
torch.set_num_threads(1)


def build_is_expected() -> bool:
    """An installed natten-core has compiled kernels; only a bare source tree may go without."""
    try:
        importlib.metadata.distribution("natten-core")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def need_kernels() -> None:
    if _loader._C is None:
        (pytest.fail if build_is_expected() else pytest.skip)(_loader.reason)


@pytest.fixture(params=["reference", pytest.param("cpu", marks=pytest.mark.kernels)])
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend in turn, for tests of numbers, which are repeated under every instruction set."""
    if request.param == "cpu":
        need_kernels()
    return str(request.param)


@pytest.fixture(params=["reference", "cpu"])
def route(request: pytest.FixtureRequest) -> str:
    """Every backend in turn, for tests of how calls get there, which no instruction set changes."""
    if request.param == "cpu":
        need_kernels()
    return str(request.param)


@pytest.fixture
def kernels() -> None:
    """For tests of the compiled kernels alone. They must be there if the package is installed."""
    need_kernels()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pytest_report_header() -> str:
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    return f"natten_core kernels: {_loader.reason or 'loaded'}; OMP_NUM_THREADS: {threads}"
