"""What nvcc makes of the CUDA kernels: registers, spills and shared memory of each, as a table.

Spills are a failure, but for those in ALLOWED.

    python ci/cuda_resources.py                        all of them, for sm_80 and sm_90
    python ci/cuda_resources.py --arch 90 --only dense
    python ci/cuda_resources.py --arch all             for every architecture of a wheel: as long as its build takes
    python ci/cuda_resources.py --arch all --log build.txt
                                                       what a build with -DCMAKE_CUDA_FLAGS=-Xptxas=-v has said of them

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

# What a wheel has machine code for; tensor cores, and the instructions that go with them, begin with sm_80.
WHEEL = ("75", "80", "86", "90", "100", "120")
TENSOR_CORES = 80

TWO_BLOCKS = "128 registers, so that two blocks fit a multiprocessor"
FOUR_BLOCKS = "128 registers, so that four blocks fit a multiprocessor"
ALL = "all 255 registers that a thread can have"
NVCC = "nvcc's own choice of registers"
# Bytes of spill stores and loads that a kernel may have on an architecture, by its whole name as the table prints it,
# and what limits its registers. Where they lie, which is in no loop over rows: docs/kernels/cuda-testing.md.
ALLOWED: list[tuple[str, dict[int, int], str]] = [
    (r"band::forward_kernel<\w+, 5, 32>", {90: 176, 100: 48}, TWO_BLOCKS),
    (r"band::forward_kernel<\w+, 7, 32>", {80: 84, 90: 60, 100: 60}, TWO_BLOCKS),
    (r"band::forward_kernel<\w+, 7, 16>", {100: 48, 120: 60}, TWO_BLOCKS),
    (r"band::forward_kernel<\w+, 7, 128>", {80: 8, 86: 8, 90: 8, 100: 100, 120: 168}, ALL),
    (r"band::forward_kernel<(half|bf16), (11|13), 64>", {100: 24}, ALL),
    (r"band::forward_kernel<tf32, 9, 64>", {100: 68, 120: 68}, ALL),
    (r"band::query_pass<\w+, band::QueryShape<2, true, 16>, 16>", {80: 16, 86: 8, 100: 88, 120: 116}, TWO_BLOCKS),
    (r"band::query_pass<\w+, band::QueryShape<2, true, 32>, 32>", {80: 388, 90: 32, 100: 52}, TWO_BLOCKS),
    (r"band::query_pass<\w+, band::QueryShape<2, false, 32>, 32>", {80: 64, 86: 8, 90: 72}, TWO_BLOCKS),
    (r"band::query_pass<tf32, band::QueryShape<2, true, 64>, 32>", {80: 8, 86: 8, 100: 172, 120: 92}, ALL),
    (r"band::key_pass<\w+, band::KeyShape<2, true, 32>, .*, 32>", {80: 32, 100: 28}, TWO_BLOCKS),
    (r"band::key_pass<\w+, band::KeyShape<2, false, 32>, .*, 32>", {100: 60}, TWO_BLOCKS),
    (r"band::key_pass<\w+, band::KeyShape<2, false, 128>, band::Results<true, false>, 128>", {100: 88, 120: 64}, ALL),
    (r"band::key_pass<\w+, band::KeyShape<3, false, 128>, band::Results<true, false>, 128>", {100: 120, 120: 108}, ALL),
    (r"band::key_pass<tf32, band::KeyShape<3, false, 128>, band::Results<true, false>, 64>", {100: 12}, ALL),
    (r"box::forward_kernel<\w+, box::Shape<3>, 32>", {100: 24, 120: 16}, TWO_BLOCKS),
    (r"box::query_pass<\w+, box::Shape<2>, 32>", {100: 56, 120: 96}, TWO_BLOCKS),
    (r"box::query_pass<\w+, box::Shape<3>, 128>", {120: 8}, ALL),
    (r"box::key_pass<\w+, box::Shape<2>, .*, 32>", {86: 12, 100: 44, 120: 48}, TWO_BLOCKS),
    (r"box::key_pass<\w+, box::Shape<3>, band::Results<true, false>, 128>", {120: 32}, ALL),
    (r"dense::forward_kernel<(half|bf16), 32, 8>", {90: 12}, FOUR_BLOCKS),
    (r"dense::forward_kernel<(half|bf16), 32, 7>", {100: 16}, FOUR_BLOCKS),
    (r"dense::forward_kernel<tf32, 32, 8>", {100: 16}, "168 registers, so that three blocks fit a multiprocessor"),
    (r"dense::backward_kernel<(half|bf16), 64, 7, true>", {100: 8, 120: 8}, ALL),
    (r"simt::forward_kernel<simt::Variant<(half|bf16), 8, 4, false> >", {75: 8, 80: 8}, NVCC),
    (r"simt::forward_kernel<simt::Variant<double, 2, 2, false> >", {120: 16}, NVCC),
    (r"simt::spread_kernel<simt::Variant<double, 1, 1, true> >", {120: 16}, NVCC),
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


def allowed(name: str, arch: str) -> int:
    """Bytes that a kernel may spill, by its readable name, on "sm_90"."""
    number = int(arch.removeprefix("sm_"))
    limits = (limit.get(number, 0) for pattern, limit, _ in ALLOWED if re.fullmatch(pattern, name))
    return max(limits, default=0)


def main(arguments: list[str] | None = None) -> int:
    """Compiles, or reads, and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", metavar="N", help='80 90 without; "all": those of a wheel')
    parser.add_argument("--only", default="", metavar="TEXT", help="files whose path has this in it")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--log", type=Path, metavar="FILE", help="compile nothing, read this")
    options = parser.parse_args(arguments)
    architectures = WHEEL if options.arch == ["all"] else options.arch or ["80", "90"]
    if options.log:
        kernels = parse(options.log.read_text(), str(options.log))
        missing = {f"sm_{arch}" for arch in architectures if options.arch} - {kernel.arch for kernel in kernels}
        print("".join(f"no kernels for {arch} in {options.log}\n" for arch in sorted(missing)), end="")
        return report(kernels) or int(bool(missing))
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("no nvcc on the PATH: nothing was checked")
        return 0
    sources = [path for path in sorted((CSRC / "cuda").rglob("*.cu")) if options.only in str(path.relative_to(CSRC))]
    jobs = [(s, arch) for s in sources for arch in architectures if int(arch) >= TENSOR_CORES or "simt" in s.parts]
    with ThreadPoolExecutor(options.jobs) as pool:
        compiled = pool.map(lambda job: compile_one(nvcc, *job), jobs)
        return report([kernel for kernels in compiled for kernel in kernels])


def report(kernels: list[Kernel]) -> int:
    """Prints the table; 1 where a kernel spills more than it may."""
    names = readable([kernel.name for kernel in kernels])
    print(f"{'registers':>9} {'threads':>7} {'spilled':>7} {'stack':>6} {'shared':>6}  arch   kernel")
    for kernel, name in sorted(zip(kernels, names, strict=True), key=lambda row: (row[1], row[0].arch)):
        numbers = f"{kernel.registers:>9} {kernel.threads:>7} {kernel.spilled:>7} {kernel.stack:>6} {kernel.shared:>6}"
        print(f"{numbers}  {kernel.arch:<6} {name}")
    most = max((kernel.registers for kernel in kernels), default=0)
    spilling = sum(kernel.spilled > 0 for kernel in kernels)
    print(f"{len(kernels)} kernels, at most {most} registers, {spilling} spill")
    over = [(k, name) for k, name in zip(kernels, names, strict=True) if k.spilled > allowed(name, k.arch)]
    for kernel, name in over:
        print(f"spills {kernel.spilled} bytes, {allowed(name, kernel.arch)} allowed: {kernel.arch} {name}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
