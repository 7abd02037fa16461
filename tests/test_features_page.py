"""The page of features: the tests that it names are there, and what it says is refused is what `explain` says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/reference/features.md").read_text()
CUDA = ROOT / "packages/natten-core/csrc/cuda"
FEATURES, REFUSALS = (
    [line for line in part.splitlines() if line.startswith("| ")][2:] for part in PAGE.split("## What is refused")
)


def refusals(kernels: str) -> set[str]:
    rows = [row.strip("| ").split(" | ") for row in REFUSALS]
    return {reason for name, reason in rows if name == kernels}


def reasons(source: str) -> set[str]:
    """What a C++ source gives as a reason: returned, or named to be returned."""
    text = (CUDA / source).read_text()
    return set(re.findall(r'return "([^"]+)";', text)) | set(re.findall(r'constexpr char \w+\[\] = "([^"]+)"', text))


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) == len(FEATURES), "one test for every feature"
    for file, name in named:
        source = (ROOT / "packages/natten-core/tests" / file).read_text()
        assert f"\ndef {name}(" in source, f"{file} has no {name}"


@pytest.mark.parametrize("family", ["dense", "band", "box", "simt"])
def test_what_the_cuda_kernels_refuse_is_what_their_sources_say(family: str) -> None:
    """`explain` hands these on word by word, which needs a device; `cuda_device/test_calls.py` has one."""
    device = {reason for reason in reasons("plan.cpp") if reason.startswith("a device")}
    plan = re.findall(r'"([^"]+)"', (CUDA / "plan.cpp").read_text())
    layout = {reason for reason in plan if "2^31" in reason or "16 bytes" in reason}
    settings = {reason for reason in plan if "TF32 is not" in reason}
    shared = {"dense": device | settings, "band": device | settings | layout, "simt": set()}
    assert (len(device), len(settings), len(layout)) == (2, 1, 2)
    assert refusals(f"cuda {family}") == reasons(f"{family}/support.cpp") | shared.get(family, shared["band"])
