"""Products of AMX tiles against loops written from Intel's manual: the emulated ones, which the kernels are tested on,
and the processor's own where it has them.

`python test_tiles.py` runs it without the rest of the tests.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
SOURCES = [HERE / "tiles.cpp", CSRC / "cpu/amx/present.cpp"]
SHAPES = [(16, 16, 16), (16, 16, 6), (6, 16, 16), (1, 1, 1), (3, 7, 16), (16, 5, 9)]
WORDS = 16  # of 32 bits, of a tile's row
MARK = np.uint32(0x7FC12345)  # a NaN, where nothing should be read or written


@lru_cache
def library() -> Any:
    folder = Path(tempfile.mkdtemp(prefix="natten-tiles-"))
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", f"-I{CSRC}"]
    subprocess.run([*command, *map(str, SOURCES), "-o", str(folder / "tiles.so")], check=True)
    loaded = ctypes.CDLL(str(folder / "tiles.so"))
    shutil.rmtree(folder)
    loaded.missing.restype = ctypes.c_char_p
    return loaded


@pytest.fixture(params=["emulated", "processor"])
def emulated(request: pytest.FixtureRequest) -> bool:
    if shutil.which("g++") is None or platform.system() != "Linux" or platform.machine() != "x86_64":
        pytest.skip("needs g++ on Linux on x86-64")
    if request.param == "processor":
        if missing := library().missing().decode():
            pytest.skip(missing)
        if os.environ.get("NATTEN_CORE_ISA") != "amx":
            pytest.skip("not yet run on any machine: NATTEN_CORE_ISA=amx asks for it")
    return request.param == "emulated"


def normal(x: np.ndarray) -> np.ndarray:
    """Zero where `x` is subnormal."""
    tiny = np.abs(x) < np.finfo(np.float32).tiny
    return np.where(tiny, np.copysign(np.float32(0), x), x).astype(np.float32)


def halves(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both bf16 numbers of each word."""
    return normal((words << 16).view(np.float32)), normal((words & 0xFFFF0000).view(np.float32))


def written_out(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Products of bf16 are exact in doubles, and so rounded twice their sums are what they are rounded once."""
    sums = [np.zeros(c.shape, np.float32), np.zeros(c.shape, np.float32)]
    for k in range(a.shape[1]):
        for i, (x, y) in enumerate(zip(halves(a[:, k]), halves(b[k]), strict=True)):
            product = x[:, None].astype(np.float64) * y[None].astype(np.float64)
            sums[i] = normal((product + sums[i]).astype(np.float32))
    return normal(normal(c.view(np.float32)) + normal(sums[0] + sums[1]))


def numbers(generator: np.random.Generator, shape: tuple[int, int], kind: str) -> np.ndarray:
    """Floats, as bits."""
    x = generator.standard_normal(shape).astype(np.float32)
    if kind == "tiny":  # with subnormal numbers, products and sums
        x *= 2.0 ** generator.integers(-70, -55, shape)
        x[generator.random(shape) < 0.3] = 1e-39
    if kind == "special":
        x = generator.choice(np.float32([0, -0.0, 1, -2, np.inf, -np.inf, np.nan, 3e38]), shape)
    return x.astype(np.float32).view(np.uint32)


@np.errstate(all="ignore")
@pytest.mark.parametrize("kind", ["usual", "tiny", "special"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_product(shape: tuple[int, int, int], kind: str, emulated: bool) -> None:
    rows, pairs, columns = shape
    generator = np.random.default_rng(0)

    def placed(tile: np.ndarray) -> np.ndarray:
        room = np.full((WORDS, WORDS + 3), MARK)
        room[: tile.shape[0], : tile.shape[1]] = tile
        return room

    def pair_words(*size: int) -> np.ndarray:
        low, high = numbers(generator, size, kind), numbers(generator, size, kind)
        return low >> 16 | high & 0xFFFF0000

    a, b = pair_words(rows, pairs), pair_words(pairs, columns)
    c = numbers(generator, (rows, columns), kind)
    rooms = [placed(a), placed(b), placed(c), placed(c)]
    pointers = [ctypes.c_void_p(room.ctypes.data) for room in rooms]
    library().multiply(int(emulated), *shape, *pointers, ctypes.c_int64(rooms[0].strides[0]))
    _, _, found, zeros = rooms
    assert np.array_equal(zeros, placed(np.zeros_like(c)))
    expected = written_out(a, b, c)
    result = found[:rows, :columns].copy().view(np.float32)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(np.signbit(result)[~np.isnan(expected)], np.signbit(expected)[~np.isnan(expected)])
    assert np.array_equal(found, placed(found[:rows, :columns]))


def test_unlike_shapes_are_found() -> None:
    """What would fault does not pass in the emulation."""
    code = "import test_tiles as t, ctypes as c; p = c.c_void_p(); t.library().multiply(1, 0, 1, 1, p, p, p, p, p)"
    run = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True)
    assert "AMX would fault" in run.stderr


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-p", "no:cacheprovider", "--noconftest"]))
