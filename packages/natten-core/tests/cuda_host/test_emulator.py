"""What the emulator notices: each of its reports has a kernel here that deserves it, and a right one that does not."""

from __future__ import annotations

import math
from functools import lru_cache
from types import ModuleType

import cuda_builder
import pytest


@lru_cache
def module() -> ModuleType:
    return cuda_builder.module("detectors", [cuda_builder.HERE / "detectors.cpp"])


def kinds(name: str, bug: int, seed: int = 0) -> set[str]:
    return set(module().run(name, bug, seed)[0])


RIGHT = [
    ("exchange", 0),
    ("exchange_in_warp", 0),
    ("pipeline", 0),
    ("copy", 0),
    ("places", 0),
    ("places", 13),
    ("gathering", 0),
    ("gathering", 9),
    ("ring", 0),
    ("signals", 0),
    ("blocks", 0),
    ("banks", 0),
    ("rows", 1),
]


@pytest.mark.parametrize(("name", "bug"), RIGHT)
@pytest.mark.parametrize("seed", [0, 1, 5, 6])
def test_right_kernels_are_not_reported(name: str, bug: int, seed: int) -> None:
    assert kinds(name, bug, seed) == set()


def test_right_kernels_compute_the_same_in_every_order() -> None:
    for seed in (0, 1, 5, 6):
        assert module().run("exchange", 0, seed)[2][:128] == [2 * (127 - t) + 1 for t in range(128)]
        assert module().run("pipeline", 0, seed)[2][:128] == [5 * 256 + 5 * (127 - t) for t in range(128)]
        assert module().run("copy", 0, seed)[2][:32] == [4 * t if t < 20 else 0 for t in range(32)]
        filled = [600.0 + 4 * (t & 31) for t in range(32, 128)]
        assert module().run("ring", 0, seed)[2][:128] == [0.0] * 32 + filled


WRONG = [
    # no barrier between write and read, between read and the next write, two writers
    ("exchange", 1, {"race: read after write", "race: write after read"}),
    ("exchange", 2, {"race: write after read"}),
    ("exchange", 3, {"race: write after write"}),
    ("exchange_in_warp", 1, {"race: read after write"}),
    ("exchange_in_warp", 2, {"race: write after read"}),
    ("exchange_in_warp", 3, {"race: read after write"}),
    # no wait, no barrier after it, none before the next copy, one buffer, one group too few waited for, no commit
    ("pipeline", 1, {"read of a copy not waited for", "write over a copy not waited for"}),
    ("pipeline", 2, {"race: read after write"}),
    ("pipeline", 3, {"race: write after read"}),
    ("pipeline", 4, {"write over a copy not waited for"}),
    ("pipeline", 5, {"read of a copy not waited for"}),
    ("pipeline", 6, {"read of a copy not waited for", "copy never waited for"}),
    ("copy", 1, {"copy never waited for"}),
    ("places", 1, {"shared memory out of bounds"}),
    ("places", 2, {"shared memory out of bounds"}),
    ("places", 3, {"misaligned shared access"}),
    ("places", 4, {"global memory out of bounds"}),
    ("places", 5, {"global memory out of bounds"}),
    ("places", 6, {"global memory out of bounds"}),
    ("places", 7, {"global memory out of bounds"}),
    ("places", 8, {"misaligned global access"}),
    ("places", 9, {"misaligned global access"}),
    ("places", 10, {"misaligned global access"}),
    ("places", 11, {"misaligned shared access"}),
    ("places", 12, {"global memory out of bounds"}),
    ("places", 14, {"read of uninitialised shared memory"}),
    ("places", 15, {"read of uninitialised global memory"}),
    ("places", 16, {"misaligned shared access"}),
    ("places", 17, {"shared memory out of bounds"}),
    ("places", 18, {"race: read after write"}),
    ("gathering", 1, {"deadlock"}),
    ("gathering", 2, {"divergent warp"}),
    ("gathering", 3, {"divergent warp"}),
    ("gathering", 4, {"barrier counts differ", "deadlock"}),  # which one is a matter of who comes first
    ("gathering", 5, {"bad barrier"}),
    ("gathering", 6, {"bad barrier"}),
    ("gathering", 7, {"divergent barrier"}),
    ("gathering", 8, {"deadlock"}),
    ("ring", 1, {"race: write after read"}),
    ("ring", 2, {"deadlock"}),
    ("ring", 3, {"race: read after write"}),
    # one lane arrives for its warp, which has not met before: after writes, after reads; nobody waits
    ("signals", 1, {"race: read after write"}),
    ("signals", 2, {"race: write after read"}),
    ("signals", 3, {"race: write after read"}),
    ("signals", 4, {"race: read after write", "read of uninitialised shared memory"}),
    ("blocks", 1, {"race in global memory"}),
    ("blocks", 2, {"race in global memory", "read of uninitialised global memory"}),
    ("blocks", 3, {"race in global memory"}),
]


@pytest.mark.parametrize(("name", "bug", "expected"), WRONG, ids=[f"{name}-{bug}" for name, bug, _ in WRONG])
@pytest.mark.parametrize("seed", [0, 1, 5])
def test_wrong_kernels_are_reported(name: str, bug: int, expected: set[str], seed: int) -> None:
    found = kinds(name, bug, seed)
    assert found & expected, found


def test_products_of_tf32_cut_off_what_is_not_rounded_before() -> None:
    """B is the identity in its first four rows and columns: A comes back, [8, 4] of [8, 8]."""
    for bug, rounded in enumerate((lambda x: math.floor(x * 1024 + 0.5) / 1024, lambda x: math.floor(x * 1024) / 1024)):
        found = module().run("short_factors", bug, 0)[2][:64]
        for thread in range(32):
            assert found[thread // 4 * 8 + thread % 4] == rounded(1 + thread / 16384), (bug, thread)
            assert found[thread // 4 * 8 + 4 + thread % 4] == 0


def test_bank_conflicts_are_counted() -> None:
    def counts(name: str, bug: int) -> dict[str, tuple[int, int]]:
        return {op: (counted, least) for op, counted, least in module().run(name, bug, 0)[1]}

    for bug, stride in enumerate((1, 2, 32, 33)):
        conflicts = {1: 1, 2: 2, 32: 32, 33: 1}[stride]
        assert counts("banks", bug) == {"sts": (conflicts, 1), "lds": (conflicts, 1)}
    assert counts("rows", 0)["ldmatrix"] == (16, 4)
    assert counts("rows", 1) == {"sts": (16, 16), "ldmatrix": (4, 4)}


def test_the_kernels_compile_without_warnings() -> None:
    for name in ("detectors", *cuda_builder.families()):
        if name != "detectors":
            cuda_builder.family_module(name)
        assert cuda_builder.warnings(name) == ""
