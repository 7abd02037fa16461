"""What nvcc makes of the CUDA kernels: registers, spills and shared memory of each, as a table.

Spills are a failure, but for those in ALLOWED.

    python ci/cuda_resources.py                        all of them, for sm_80 and sm_90
    python ci/cuda_resources.py --arch 90 --only dense

Shared memory is the static part. Blocks of more threads than the registers allow would not start: the table gives the
most threads that one multiprocessor's 65536 registers hold.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

CSRC = Path(__file__).resolve().parent.parent / "packages/natten-core/csrc"
FLAGS = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xptxas", "-v", "-cubin", f"-I{CSRC}", f"-I{CSRC}/include"]
ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for '(?P<arch>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)

TWO_BLOCKS = "128 registers, so that two blocks fit a multiprocessor"
ALL = "all 255 registers that a thread can have"
# Bytes of spill stores and loads that a kernel may have, by its whole name as the table prints it, and what limits it.
# In the band's passes they lie between steps, but for the unrolled rows of the query pass for 7x7.
ALLOWED = [
    (r"band::forward_kernel<\w+, (5|7), 32>", 176, TWO_BLOCKS),
    (r"band::forward_kernel<\w+, 7, 128>", 8, ALL),
    (r"band::query_pass<\w+, band::QueryShape<2, true, (16|32)>, (16|32)>", 400, TWO_BLOCKS),
    (r"band::query_pass<\w+, band::QueryShape<2, false, 32>, 32>", 76, TWO_BLOCKS),
    (r"band::key_pass<\w+, band::KeyShape<2, true, 32>, .*, 32>", 32, TWO_BLOCKS),
    (r"dense::forward_kernel<(half|bf16), 32, 8>", 12, "128 registers, so that four blocks fit a multiprocessor"),
    (r"simt::forward_kernel<simt::Variant<(half|bf16), 8, 4, false> >", 8, "168 registers, nvcc's choice on sm_80"),
]


class Kernel(NamedTuple):
    """One kernel on one architecture; bytes."""

    file: str
    arch: str
    name: str
    registers: int
    spilled: int
    stack: int
    shared: int

    @property
    def threads(self) -> int:
        """Most threads of one multiprocessor, in warps of which each takes registers in steps of 256."""
        return min(2048, 65536 // (-(-self.registers * 32 // 256) * 256) * 32)


def parse(report: str, file: str) -> list[Kernel]:
    """The kernels in ptxas's report."""
    found = []
    for match in ENTRY.finditer(report):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        spilled = int(match["stores"]) + int(match["loads"])
        numbers = int(match["registers"]), spilled, int(match["stack"]), int(shared[1]) if shared else 0
        found.append(Kernel(file, match["arch"], match["name"], *numbers))
    return found


def compile_one(nvcc: str, source: Path, arch: str) -> list[Kernel]:
    """Compiles a file and reads the report.

    Raises:
        RuntimeError: nvcc does not compile it.
    """
    command = [nvcc, *FLAGS, f"-arch=sm_{arch}", "-o", "/dev/null", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return parse(done.stderr, str(source.relative_to(CSRC / "cuda")))


def readable(names: list[str]) -> list[str]:
    """Without the mangling, namespaces and arguments."""
    if shutil.which("c++filt") is None:
        return names
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    short = re.compile(r"\b(?:natten_core::cuda::|natten_core::|void )|\((?:int|bool|unsigned int)\)")
    lines = [short.sub("", line) for line in done.stdout.splitlines()]
    return [line.replace("dev::", "").rsplit("(", 1)[0] for line in lines]


def allowed(name: str) -> int:
    """Bytes that a kernel may spill, by its readable name."""
    return max((spilled for pattern, spilled, _ in ALLOWED if re.fullmatch(pattern, name)), default=0)


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; exits with 1 where a kernel spills more than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=["80", "90"], metavar="N")
    parser.add_argument("--only", default="", metavar="TEXT", help="files whose path has this in it")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("no nvcc on the PATH: nothing was checked")
        return 0
    sources = [path for path in sorted((CSRC / "cuda").rglob("*.cu")) if options.only in str(path.relative_to(CSRC))]
    # Tensor cores, and the instructions that go with them, begin with sm_80.
    jobs = [(s, arch) for s in sources for arch in options.arch if int(arch) >= 80 or "simt" in s.parts]
    with ThreadPoolExecutor(options.jobs) as pool:
        reports = pool.map(lambda job: compile_one(nvcc, *job), jobs)
        kernels = [kernel for report in reports for kernel in report]
    names = readable([kernel.name for kernel in kernels])
    print(f"{'registers':>9} {'threads':>7} {'spilled':>7} {'stack':>6} {'shared':>6}  arch   kernel")
    for kernel, name in sorted(zip(kernels, names, strict=True), key=lambda row: (row[1], row[0].arch)):
        numbers = f"{kernel.registers:>9} {kernel.threads:>7} {kernel.spilled:>7} {kernel.stack:>6} {kernel.shared:>6}"
        print(f"{numbers}  {kernel.arch:<6} {name}")
    most = max((kernel.registers for kernel in kernels), default=0)
    spilling = sum(kernel.spilled > 0 for kernel in kernels)
    print(f"{len(kernels)} kernels of {len(sources)} files, at most {most} registers, {spilling} spill")
    over = [(k, name) for k, name in zip(kernels, names, strict=True) if k.spilled > allowed(name)]
    for kernel, name in over:
        print(f"spills {kernel.spilled} bytes, {allowed(name)} allowed: {kernel.arch} {name}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
