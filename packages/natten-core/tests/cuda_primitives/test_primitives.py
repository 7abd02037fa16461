"""Each primitive of the kernels on raw registers, in the emulator and on a device, against tables written from the PTX
manual: neither the kernels nor the emulator are asked what is right.

On a device: with nvcc and a GPU, else skipped. `python test_primitives.py` runs it without the rest of the tests.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
INCLUDE = [f"-I{CSRC}", f"-I{CSRC / 'include'}"]
NVCC = ["nvcc", "-std=c++17", "-O3", "-Xcompiler", "-fPIC", *INCLUDE]
# The emulator brings a CUDA runtime of its own, which nvcc must not see.
HOST = ["g++", "-std=c++17", "-O1", "-Wno-unknown-pragmas", "-ffp-contract=off", "-fPIC", "-pthread", *INCLUDE]
HOST += [f"-I{HERE.parent / 'cuda_host'}", "-xc++"]
Words = np.ndarray
Dump = Callable[..., Words]


def obstacle(machine: str) -> str:
    """Why kernels cannot be built for, or run on, `emulator` or `device`."""
    compiler = "nvcc" if machine == "device" else "g++"
    if shutil.which(compiler) is None:
        return f"no {compiler}"
    return "no GPU" if machine == "device" and not torch.cuda.is_available() else ""


@lru_cache
def build(machine: str) -> Dump:
    library = Path(tempfile.mkdtemp(prefix="natten-primitives-")) / "dump.so"
    command = [*NVCC, "-arch=native"] if machine == "device" else HOST
    subprocess.run([*command, "-shared", str(HERE / "dump.cu"), "-o", str(library)], check=True)
    function = ctypes.CDLL(str(library)).dump
    shutil.rmtree(library.parent)

    def dump(name: str, given: Words, shape: tuple[int, ...], count: int = 0) -> Words:
        given, found = np.ascontiguousarray(given, np.uint32), np.zeros(shape, np.uint32)
        message = ctypes.create_string_buffer(1000)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (given, found)]
        failed = function(name.encode(), pointers[0], given.size, pointers[1], found.size, count, message, 1000)
        assert not failed, message.value.decode()
        return found

    return dump


@pytest.fixture(params=["emulator", "device"])
def dump(request: pytest.FixtureRequest) -> Dump:
    if reason := obstacle(request.param):
        pytest.skip(reason)
    return build(request.param)


# ---- numbers and bits


def bits(values: np.ndarray, kind: str) -> Words:
    """The bits of numbers in "float", "half" or "bf16", rounded to nearest even, as words; "tf32" is not rounded."""
    values = np.asarray(values, np.float32)
    if kind in ("float", "tf32"):
        return values.view(np.uint32)
    tensor = torch.from_numpy(values.copy()).to(torch.float16 if kind == "half" else torch.bfloat16)
    return tensor.view(torch.int16).numpy().view(np.uint16).astype(np.uint32)


def numbers(words: Words) -> np.ndarray:
    return np.ascontiguousarray(words, np.uint32).view(np.float32)


# ---- fragments, in the words of the PTX manual

LANES = range(32)


def a_place(lane: int, i: int) -> tuple[int, int]:
    """Row and column of element a_i of .f16/.bf16 A in mma.m16n8k16."""
    group, member = lane // 4, lane % 4
    row = group if i in (0, 1, 4, 5) else group + 8
    column = member * 2 + (i & 1) if i < 4 else member * 2 + (i & 1) + 8
    return row, column


def b_place(lane: int, i: int) -> tuple[int, int]:
    group, member = lane // 4, lane % 4
    return (member * 2 + (i & 1) if i < 2 else member * 2 + (i & 1) + 8), group


def c_place(lane: int, i: int) -> tuple[int, int]:
    group, member = lane // 4, lane % 4
    return (group if i < 2 else group + 8), member * 2 + (i & 1)


def a_place_tf32(lane: int, i: int) -> tuple[int, int]:
    """Row and column of element a_i of .tf32 A in mma.m16n8k8."""
    group, member = lane // 4, lane % 4
    return (group if i in (0, 2) else group + 8), (member if i in (0, 1) else member + 4)


def b_place_tf32(lane: int, i: int) -> tuple[int, int]:
    group, member = lane // 4, lane % 4
    return (member if i == 0 else member + 4), group


DEPTH = {"half": 16, "bf16": 16, "tf32": 8}  # columns of A


def registers(a: np.ndarray, b: np.ndarray, c: np.ndarray, kind: str) -> Words:
    """[32, 10] as dump.cu wants them."""
    a_bits, b_bits, c_bits = bits(a, kind), bits(b, kind), bits(c, "float")
    made = np.zeros((32, 10), np.uint32)
    for lane in LANES:
        for i in range(4):
            made[lane, 6 + i] = c_bits[c_place(lane, i)]
            if kind == "tf32":
                made[lane, i] = a_bits[a_place_tf32(lane, i)]
                made[lane, 4 + i % 2] = b_bits[b_place_tf32(lane, i % 2)]
                continue
            for j in (2 * i, 2 * i + 1):
                made[lane, i] |= a_bits[a_place(lane, j)] << 16 * (j & 1)
            made[lane, 4 + i // 2] |= b_bits[b_place(lane, i)] << 16 * (i & 1)
    return made


def products(dump: Dump, a: np.ndarray, b: np.ndarray, c: np.ndarray, kind: str) -> np.ndarray:
    """[2, 16, 8]: A.B + C with C given apart, and in place."""
    found = numbers(dump(f"mma {kind}", registers(a, b, c, kind), (32, 8)))
    matrices = np.full((2, 16, 8), np.nan, np.float32)
    for lane in LANES:
        for i in range(4):
            row, column = c_place(lane, i)
            matrices[:, row, column] = found[lane, i], found[lane, 4 + i]
    return matrices


@pytest.mark.parametrize("kind", DEPTH)
def test_mma_has_its_elements_where_the_manual_says(dump: Dump, kind: str) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(-50, 51, (16, DEPTH[kind])), rng.integers(-50, 51, (DEPTH[kind], 8))
    c = rng.integers(-1000, 1001, (16, 8))
    assert np.array_equal(products(dump, a, b, c, kind), np.stack([a @ b + c] * 2))


@pytest.mark.parametrize("kind", DEPTH)
def test_mma_sums_in_float32(dump: Dump, kind: str) -> None:
    rng = np.random.default_rng(1)
    a, b, c = (rng.standard_normal(shape) for shape in ((16, DEPTH[kind]), (DEPTH[kind], 8), (16, 8)))
    if kind == "tf32":
        a, b = (numbers(bits(m, "float") & 0xFFFFE000).astype(np.float64) for m in (a, b))
    else:
        dtype = torch.float16 if kind == "half" else torch.bfloat16
        a, b = (torch.from_numpy(m).to(dtype).double().numpy() for m in (a, b))
    c = c.astype(np.float32).astype(np.float64)
    size = np.abs(a) @ np.abs(b) + np.abs(c)
    assert np.all(np.abs(products(dump, a, b, c, kind) - (a @ b + c)) <= 2.0**-21 * size)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_nvcc_compiles_what_a_device_would_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [*NVCC, "-arch=sm_80", "-c", str(HERE / "dump.cu"), "-o", str(tmp_path / "dump.o")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_mma_of_tf32_cuts_off_what_no_conversion_has_rounded(dump: Dump) -> None:
    """Formally what is no tf32 is not defined; it is why factors are converted, and why a test shows where not."""
    rng = np.random.default_rng(8)
    a, b = (rng.uniform(1, 2, shape).astype(np.float32) for shape in ((16, 8), (8, 8)))
    cut = [numbers(bits(m, "float") & 0xFFFFE000).astype(np.float64) for m in (a, b)]
    found = products(dump, a, b, np.zeros((16, 8)), "tf32")
    assert np.all(np.abs(found - cut[0] @ cut[1]) <= 2.0**-21 * (cut[0] @ cut[1]))


def test_conversion_to_tf32_rounds_to_nearest_and_ties_away_from_zero(dump: Dump) -> None:
    rng = np.random.default_rng(9)
    ordinary = (rng.standard_normal(4000) * 10.0 ** rng.integers(-30, 30, 4000)).astype(np.float32)
    halfway = (np.arange(2000, dtype=np.uint32) * 0x1000 + 0x3F800000).view(np.float32)  # every second is a tie
    special = np.array([0.0, -0.0, np.inf, -np.inf, 3.3e38, -3.3e38, 1.2e-38], np.float32)
    x = np.concatenate([ordinary, halfway, -halfway, special])
    found = dump("convert tf32", bits(x, "float"), (x.size, 2), x.size)
    assert np.array_equal(found[:, 0], found[:, 1])
    near = numbers(found[:, 0] & 0xFFFFE000).astype(np.float64)  # the manual leaves the other bits open
    fraction, exponent = np.frexp(np.abs(x[: -special.size]).astype(np.float64))
    exact = np.sign(x[: -special.size]) * np.ldexp(np.floor(fraction * 2**11 + 0.5) / 2**11, exponent)
    assert np.array_equal(near[: -special.size], exact)
    assert np.array_equal(near[-special.size :][:4], special[:4])
    assert np.allclose(near[-3:], special[-3:], rtol=2.0**-11, atol=0)
    nans = np.array([0x7FC00000, 0x7FFFFFFF, 0xFFC00000], np.uint32)  # torch's, CUDA's
    assert np.isnan(numbers(dump("convert tf32", nans, (3, 2), 3) & 0xFFFFE000)).all()


def test_ldmatrix(dump: Dump) -> None:
    elements = np.arange(256, dtype=np.uint32) + 1000  # 32 rows of 8 elements
    order = np.random.default_rng(2).permutation(32)  # lane l reads row order[l]
    words = elements[0::2] | elements[1::2] << 16
    found = dump("ldmatrix", np.concatenate([words, order * 16]), (32, 14))
    rows = elements.reshape(32, 8)
    column = 0
    for transposed in (False, True):
        for matrices in (1, 2, 4):
            for j in range(matrices):
                matrix = rows[order[8 * j : 8 * j + 8]]
                matrix = matrix.T if transposed else matrix
                for lane in LANES:
                    low, high = matrix[lane // 4, 2 * (lane % 4)], matrix[lane // 4, 2 * (lane % 4) + 1]
                    assert found[lane, column] == low | high << 16, (transposed, matrices, j, lane)
                column += 1


def test_movmatrix(dump: Dump) -> None:
    matrix = np.arange(64, dtype=np.uint32).reshape(8, 8) * 7 + 3
    found = dump("movmatrix", (matrix[:, 0::2] | matrix[:, 1::2] << 16).ravel(), (32,)).reshape(8, 4)
    assert np.array_equal(found, matrix.T[:, 0::2] | matrix.T[:, 1::2] << 16)


@pytest.mark.parametrize("size", [16, 8, 4])
def test_cp_async_fills_with_zeros_what_is_not_valid(dump: Dump, size: int) -> None:
    rng = np.random.default_rng(3)
    valid, data = rng.integers(0, 2, 32), rng.integers(1, 2**32, (32, size // 4), dtype=np.uint32)
    found = dump(f"cp_async {size}", np.concatenate([valid, data.ravel()]), (2, 32, size // 4))
    assert np.array_equal(found[0], np.where(valid[:, None], data, 0))
    assert np.array_equal(found[1], np.where(valid[:, None], 0, data))


def test_lanes(dump: Dump) -> None:
    rng = np.random.default_rng(4)
    value, flag = rng.integers(10, 2**20, 32), rng.integers(0, 2**31, 32)
    found = dump("lanes", np.stack([value, flag], 1), (32, 7))
    lane = np.arange(32)
    by = value[flag & 31]
    ballot = int(((flag & 1) << lane).sum())
    expected = [value[lane ^ 5], by, value[lane ^ 16], by, value[lane ^ 2], np.full(32, ballot), np.full(32, 2)]
    assert np.array_equal(found, np.stack(expected, 1))
    value[11] = 7
    assert np.all(dump("lanes", np.stack([value, flag], 1), (32, 7))[:, 6] == 1)


def test_conversions(dump: Dump) -> None:
    rng = np.random.default_rng(5)
    ordinary = (rng.standard_normal(4000) * 10.0 ** rng.integers(-9, 9, 4000)).astype(np.float32)
    halfway = (np.arange(2000, dtype=np.uint32) * 0x1000 + 0x3F800000).view(np.float32)  # ties of both types
    subnormal = (rng.standard_normal(2000) * 2.0**-24).astype(np.float32)
    special = np.array(
        [0.0, -0.0, np.inf, -np.inf, 65504, 65519.99, 65520, 1e38, 3.4e38, -3.4e38, 2.0**-25], np.float32
    )
    x = np.concatenate([ordinary, halfway, subnormal, special])
    found = dump("convert", bits(x, "float"), (x.size, 9), x.size)
    with np.errstate(over="ignore"):
        h, b, minus_h, minus_b = bits(x, "half"), bits(x, "bf16"), bits(-x, "half"), bits(-x, "bf16")
    assert np.array_equal(found[:, 0], h)
    assert np.array_equal(found[:, 1], b)
    assert np.array_equal(found[:, 2], h | minus_h << 16)
    assert np.array_equal(found[:, 3], b | minus_b << 16)
    back = h.astype(np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    minus = minus_h.astype(np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    assert np.array_equal(found[:, 4:], np.stack([back, back, minus, b << 16, minus_b << 16], 1))
    nan = dump("convert", bits(np.array([np.nan]), "float"), (1, 9), 1)
    assert nan[0, 0] == nan[0, 1] == 0x7FFF
    assert np.isnan(numbers(nan[0, 4:])).all()


def test_approximations(dump: Dump) -> None:
    x = np.concatenate([np.linspace(-126, 127, 3001), np.geomspace(1e-37, 1e37, 3001)]).astype(np.float32)
    found = numbers(dump("approximate", bits(x, "float"), (x.size, 3), x.size)).astype(np.float64)
    exact = x.astype(np.float64)
    below = exact <= 127
    assert np.all(np.abs(found[below, 0] / np.exp2(exact[below]) - 1) <= 2.0**-21)
    above = exact > 0
    assert np.all(
        np.abs(found[above, 1] - np.log2(exact[above])) <= 2.0**-21 * np.maximum(1, np.abs(np.log2(exact[above])))
    )
    there = exact != 0
    assert np.all(np.abs(found[there, 2] * exact[there] - 1) <= 2.0**-21)
    edges = np.array([-np.inf, np.inf, 0.0, -200.0, np.nan, 1e-40], np.float32)
    found = numbers(dump("approximate", bits(edges, "float"), (6, 3), 6))
    assert found[0, 0] == 0
    assert found[3, 0] == 0  # flushed
    assert found[1, 0] == np.inf
    assert found[2, 0] == 1
    assert found[2, 1] == -np.inf
    assert found[2, 2] == np.inf
    assert found[5, 2] == np.inf  # flushed before
    assert found[1, 2] == 0
    assert np.isnan(found[4]).all()


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_memory(dump: Dump, size: int) -> None:
    data = np.random.default_rng(6).integers(0, 2**32, 256, dtype=np.uint32)
    found = dump(f"memory {size}", data, (256,))
    assert np.array_equal(found.view(np.uint8).reshape(-1, size), data.view(np.uint8).reshape(-1, size)[::-1])


def test_named_barriers(dump: Dump) -> None:
    expected = 100 * np.arange(4)[:, None] + np.arange(32)[::-1]
    for _ in range(20):
        assert np.array_equal(dump("ring", np.zeros(1), (4, 32)), expected)


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-rs", "--noconftest", "-p", "no:cacheprovider"]))
