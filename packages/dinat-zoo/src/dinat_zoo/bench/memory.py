"""Peak memory of a step, its weights and inputs included.

On CUDA: torch's allocator. On a CPU, where torch keeps no books: by how much the resident set of a fresh process grew
at its highest, from after the imports to after two steps. That has what torch's libraries allocate besides tensors, and
pages that the C library keeps after `free`: what the machine must have, rather than what the tensors add up to.
"""

from __future__ import annotations

import contextlib
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from dinat_zoo.bench.jobs import LayerJob, ModelJob

Job = ModelJob | LayerJob
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(job: Job) -> float:
    """Peak memory of a job's weights, inputs and steps, in MiB.

    Raises:
        RuntimeError: where the process that measures failed; the message is its last line, or its signal.
    """
    setting = job.setting
    if torch.device(setting.device).type == "cuda":
        before = torch.cuda.memory_allocated(setting.device)
        torch.cuda.reset_peak_memory_stats(setting.device)
        _run(job)
        return (torch.cuda.max_memory_allocated(setting.device) - before) / 2**20
    worker = "from dinat_zoo.bench.memory import _worker; _worker()"
    done = subprocess.run([sys.executable, "-c", worker], input=pickle.dumps(job), capture_output=True, check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        killed = f"killed by signal {-done.returncode}, as for want of memory" if done.returncode < 0 else ""
        raise RuntimeError(killed or (lines[-1] if lines else f"exit code {done.returncode}"))
    return float(done.stdout.split()[-1])


def growth(call: Callable[[], object]) -> float:
    """By how many MiB the resident set of this process grows at its highest during a call (Linux)."""
    # The high-water mark falls to the present size. A sandbox may forbid it: the growth then counts from the mark as it
    # stands, and can only be too small.
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")
    before = _high_water()
    call()
    return _high_water() - before


def _high_water() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    if found is None:
        raise RuntimeError(f"{_STATUS} has no VmHWM; peak memory on a CPU needs Linux.")
    return int(found[1]) / 2**10


def _run(job: Job) -> None:
    step = job.step()
    for _ in range(2):
        step()


def _worker() -> None:
    job: Job = pickle.load(sys.stdin.buffer)
    if job.setting.threads is not None:
        torch.set_num_threads(job.setting.threads)
    with job.setting.autocast():  # what the libraries allocate once, whatever the model
        torch.nn.Conv2d(3, 8, 3)(torch.randn(1, 3, 8, 8)).sum().backward()
        torch.nn.Linear(8, 8)(torch.randn(8, 8)).sum().backward()
    print(growth(lambda: _run(job)))
