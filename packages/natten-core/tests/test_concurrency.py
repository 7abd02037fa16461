"""Many threads of Python at once, forked workers, and how many threads a call takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from natten_cases import CASES, Case
from natten_compare import results
from natten_slots import FIRST, SECOND, part, windowed
from torch import Tensor

import natten_core
from natten_core import neighborhood_attention

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("kernels")]

NAMES = ("2d-prime", "1d-dilated", "3d", "2d-many-heads", "3d-everything", "2d-strided-long", "1d-bands", "2d-grouped")
SOME = [case for case in CASES if case.name in NAMES]
QK: dict[int, Any] = {1: natten_core.na1d_qk, 2: natten_core.na2d_qk, 3: natten_core.na3d_qk}
AV: dict[int, Any] = {1: natten_core.na1d_av, 2: natten_core.na2d_av, 3: natten_core.na3d_av}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def attend(case: Case, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    output, lse = neighborhood_attention(**tensors, **case.settings, return_lse=True, backend="cpu")
    return output, lse


def attend_in_two_stages(case: Case, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    scores = QK[case.rank](**part(tensors, FIRST), **windowed(case), backend="cpu")
    return AV[case.rank](scores, **part(tensors, SECOND), **windowed(case), backend="cpu"), scores


def everything(case: Case, form: Any, dtype: torch.dtype) -> list[Tensor]:
    tensors = case.tensors(dtype)
    outputs = form(case, tensors)
    return list(results(lambda _: outputs, tensors, tuple(torch.ones_like(part) for part in outputs)).values())


@pytest.mark.parametrize("threads", [1, 2])
def test_calls_from_many_threads_at_once(threads: int) -> None:
    """Forward and backward, other problems beside each other, more threads than processors."""
    calls = [(c, f, t) for c in SOME for f in (attend, attend_in_two_stages) for t in (torch.float32, torch.float64)]
    wanted = [everything(*call) for call in calls]

    def run(worker: int) -> None:
        torch.set_num_threads(threads)
        for i in range(len(calls)):
            at = (i + 5 * worker) % len(calls)
            found = everything(*calls[at])
            assert all(torch.equal(a, b) for a, b in zip(found, wanted[at], strict=True)), calls[at]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(8))) == [None] * 8


WORKERS = """
import sys, torch, natten_core
from torch.utils.data import DataLoader, Dataset

class Attended(Dataset):
    def __init__(self, x): self.x = x
    def __len__(self): return len(self.x)
    def __getitem__(self, i):
        x = self.x[i][None].clone().requires_grad_()
        plain = natten_core.na2d(x, x, x, 5, backend="cpu")
        strided = natten_core.na2d(x, x, x, 5, stride=2, backend="cpu")
        scores = natten_core.na2d_qk(x, x, 3, backend="cpu")
        staged = natten_core.na2d_av(scores, x, 3, backend="cpu")
        (grad,) = torch.autograd.grad((plain + strided + staged).sum(), x)
        return torch.cat([plain, strided, staged, grad]).detach()

if __name__ == "__main__":
    torch.set_num_threads(3)
    data = Attended(torch.randn(6, 24, 24, 2, 8))
    here = torch.stack([data[i] for i in range(6)])  # libgomp has threads from here on
    for persistent in (False, True):
        loader = DataLoader(data, 2, num_workers=2, multiprocessing_context="fork", persistent_workers=persistent)
        assert torch.equal(torch.cat(list(loader)), here)
    print("equal")
"""


def test_forked_workers_of_a_data_loader(tmp_path: Path) -> None:
    """The parent has used OpenMP, whose threads a fork does not copy: to wait for them would never end."""
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    assert run_python(str(script)) == "equal"


def test_a_fork_of_a_fork() -> None:
    code = (
        "import os, sys, torch, natten_core\n"
        "torch.set_num_threads(2)\n"
        "x = torch.randn(2, 24, 24, 2, 8)\n"
        "def attend(): return natten_core.na2d(x, x, x, 5, stride=2, backend='cpu')\n"
        "here = attend()\n"
        "for _ in range(2):\n"
        "    child = os.fork()\n"
        "    if child:\n"
        "        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "there = attend()\n"
        "torch.set_num_threads(1)  # for torch's own operations, which hang otherwise\n"
        "os._exit(0 if torch.equal(there, here) else 1)\n"
    )
    run_python("-c", code)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
def test_as_many_threads_as_torch_says() -> None:
    code = (
        "import os, torch, natten_core\n"
        "x = torch.randn(4, 24, 24, 2, 8)\n"
        "def threads_after(count):\n"
        "    torch.set_num_threads(count)\n"
        "    natten_core.na2d(x, x, x, 5, backend='cpu')\n"
        "    natten_core.na2d(x, x, x, 5, stride=2, backend='cpu')\n"
        "    return len(os.listdir('/proc/self/task'))\n"
        "first = threads_after(1)\n"
        "print(*(threads_after(count) - first for count in (1, 2, 4)))\n"
    )
    if natten_core.build_info()["openmp"] is None:
        pytest.skip("built without OpenMP")
    assert run_python("-c", code) == "0 1 3"


def run_python(*arguments: str) -> str:
    """What a fresh Python prints; fails where it fails, or does not end."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
