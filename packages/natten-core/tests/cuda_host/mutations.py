"""Takes one barrier, wait, commit, swizzle or conversion out of the kernels at a time: would the tests notice?

    python mutations.py [--list] [--only TEXT] simt two-stage dense dense-tf32 band band-tf32 box box-tf32 band-16 ...

The kernels of a setting are compiled once, with a switch at every such place (about a minute); then each mutant runs
a few cases (a second). It is noticed if the emulator reports something, a result is wrong, or shared memory
is passed over more often than before.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))

import cuda_builder
import torch
from cuda_cases import NAMED, hold, run
from cuda_harness import Options
from natten_cases import Case
from test_two_stage import MORE, check_two_stage

CUDA = cuda_builder.CSRC / "cuda"
_CALL = re.compile(
    r"(?:\bdev::(?:syncthreads|syncwarp|cp_async_wait<[^;]*?>|cp_async_commit|cp_async_mbarrier_arrive|bar_sync"
    r"|bar_arrive|mbarrier_init|mbarrier_arrive|mbarrier_wait)"
    r"|\bsignals\.(?:start|will_load|wait_loaded|wait_done|set_done)|\bsteps\.wait_before)"
    r"\((?!\)\s*\{)[^;{]*\)(?=;|,)"
)
_XOR = re.compile(r" \^ ")
_SWIZZLE = re.compile(r"(?<=const int swizzle = )[^;]+(?=;)")
_CONVERSION = re.compile(r"dev::to_tf32\(")
_UNCUT = re.compile(r" \* kUncut")
# Before each changed file: the number of the mutant that runs, 0 for none.
_SWITCH = """#ifndef NATTEN_MUTANT
#define NATTEN_MUTANT
extern "C" {
[[gnu::visibility("default")]] inline int natten_mutant = 0;
}
#endif
#line 1
"""


class Setting(NamedTuple):
    """What mutants of a family are tried on."""

    family: str
    dtype: torch.dtype
    cases: tuple[str, ...]
    without: str  # sources that these cases do not need
    where: str  # the mutants that these cases run over, as a regular expression of what `--list` prints
    head_dim: int | None = None  # instead of the cases' own
    also: tuple[torch.dtype, ...] = ()  # for mutants that the dtype does not notice


TF32 = ".*(kUncut|to_tf32)"  # in lines that 16-bit kernels do not run
BAND_CASES = ("b-dilated-remainder", "b-grouped", "b-wide", "b-tall", "b-idle-warp", "b-many-samples")
BOX_CASES = ("x-3d-7", "x-3d-dilated", "x-3d-wide", "x-3d-grouped", "x-3d-tall", "x-1d-dilated", "x-many-planes")
NAMED.update({case.name: case for case in MORE})


def band(head_dim: int, dtype: torch.dtype) -> Setting:
    # With head_dim 16 a row is read as one matrix, the first, whose offset nothing is added to.
    where = r"^band/(?!.*\(first \^ )" if head_dim == 16 else r"^band/"
    where += rf"(?!{TF32})"
    return Setting("band", dtype, BAND_CASES, others(head_dim, dtype), where, head_dim)


def box(head_dim: int, dtype: torch.dtype) -> Setting:
    where = rf"^(box/|band/(fragments|signals|backward_bias|backward_reduce)\.)(?!{TF32})"
    return Setting("box", dtype, BOX_CASES, others(head_dim, dtype), where, head_dim)


def others(head_dim: int, dtype: torch.dtype) -> str:
    """The sources of other head_dims and dtypes."""
    own = "half" if dtype is torch.float16 else "bf16"
    return rf"_(?!{own})[a-z0-9]+_d\d+\.cu|_{own}_d(?!{head_dim}\.)\d+\.cu"


SETTINGS = {
    "simt": Setting(
        "simt",
        torch.float32,
        ("2d-dilated-remainder", "2d-head-dim-32", "2d-head-dim-67"),
        r"^(float16|bfloat16|float64|two_stage_\w+)\.cu",
        r"^simt/(?!two_stage)",
    ),
    "two-stage": Setting(
        "two-stage",
        torch.float32,
        ("2d-head-dim-32", "causal-lanes"),
        r"^two_stage_(float16|bfloat16|float64)\.cu",
        r"^simt/(two_stage|group_tables|reduce)",
    ),
    "dense": Setting(
        "dense",
        torch.bfloat16,
        ("d-dilated-remainder", "d-128", "d-many-maps", "d-128-many-maps"),
        r"_half\.cu",
        rf"^dense/(?!{TF32})",
        also=(torch.float32,),
    ),
    "dense-tf32": Setting(
        "dense",
        torch.float32,
        ("d-dilated-remainder", "d-64", "d-128", "d-many-maps", "d-128-many-maps"),
        r"_half\.cu",
        r"^dense/",
        also=(torch.bfloat16,),
    ),
    "band": band(32, torch.bfloat16),
    "band-tf32": Setting(
        "band",
        torch.float32,
        (*BAND_CASES, "b-64"),
        r"_(half|bf16)_d\d+\.cu",
        r"^band/(?!.*d & 3\) << 5)",  # where ldmatrix finds 16-bit rows
    ),
    "box": box(32, torch.bfloat16),
    "box-tf32": Setting(
        "box",
        torch.float32,
        (*BOX_CASES, "x-3d-64"),
        r"_(half|bf16)_d\d+\.cu",
        r"^(box/|band/(fragments|signals|backward_bias|backward_reduce)\.)(?!.*d & 3\) << 5)",
    ),
    # Other head_dims and the other dtype are kernels of their own from the same lines.
    "band-16": band(16, torch.bfloat16),
    "band-64": band(64, torch.bfloat16),
    "band-128": band(128, torch.bfloat16),
    "band-half": band(32, torch.float16),
    "box-64": box(64, torch.bfloat16),
    "box-128": box(128, torch.bfloat16),
}


class Mutation(NamedTuple):
    """`line` with the text from `begin` to `end` replaced by `instead`, where {} is the mutant's number."""

    path: Path
    number: int
    line: str
    begin: int
    end: int
    instead: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(CUDA)}:{self.number}: {self.line.strip()}"


def mutations() -> Iterator[Mutation]:
    """All there are."""
    for path in sorted(CUDA.glob("*/*")):
        if path.parent.name == "device" or path.suffix not in {".h", ".cuh", ".cu"}:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.split("//")[0]
            for found in _CALL.finditer(code):
                yield Mutation(path, number, line, *found.span(), f"(natten_mutant == {{}} ? void() : {found[0]})")
            for found in _XOR.finditer(code):
                yield Mutation(path, number, line, *found.span(), " ^ (natten_mutant != {}) * ")
            for found in _SWIZZLE.finditer(code):
                yield Mutation(path, number, line, *found.span(), f"(natten_mutant != {{}}) * ({found[0]})")
            for found in _CONVERSION.finditer(code):
                yield Mutation(path, number, line, *found.span(), "dev::to_tf32_unless(natten_mutant == {}, ")
            for found in _UNCUT.finditer(code):
                yield Mutation(path, number, line, *found.span(), " * (natten_mutant == {} ? 1.0f : kUncut)")


def write(chosen: list[Mutation], changed: Path) -> None:
    """Copies of the sources with a switch for each mutant, numbered from 1."""
    for path in {mutation.path for mutation in chosen}:
        lines = path.read_text().splitlines()
        # From the back, so that places in a line stay what they are.
        for i, mutation in sorted(enumerate(chosen, 1), key=lambda pair: -pair[1].begin):
            if mutation.path == path:
                line, instead = lines[mutation.number - 1], mutation.instead.format(i)
                lines[mutation.number - 1] = line[: mutation.begin] + instead + line[mutation.end :]
        copy = changed / "csrc" / path.relative_to(cuda_builder.CSRC)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(_SWITCH + "\n".join(lines) + "\n")


def runner(setting: Setting, changed: Path) -> tuple[ModuleType, Callable[[str, torch.dtype], int]]:
    """The module with the switches, and what runs a case in a dtype and returns its passes over shared memory."""

    def case_of(name: str) -> Case:
        case = NAMED[name]
        if setting.head_dim is None:
            return case
        case = case._replace(name=f"{name}-of-{setting.head_dim}", head_dim=setting.head_dim)
        return NAMED.setdefault(case.name, case)

    if setting.family == "two-stage":
        module = cuda_builder.two_stage_module(changed, setting.without)

        def two_stage(name: str, dtype: torch.dtype) -> int:
            check_two_stage(module, case_of(name), dtype, "contiguous")
            return 0

        return module, two_stage

    def family(name: str, dtype: torch.dtype) -> int:
        options = Options(changed=changed, without=setting.without, count_banks=True, multiprocessors=4)
        found = run(setting.family, case_of(name), dtype, options=options)
        hold(setting.family, case_of(name), dtype, found, slack=1e-6)
        return options.total_wavefronts

    return cuda_builder.family_module(setting.family, changed, setting.without), family


def noticed(setting: Setting, run_case: Callable[[str, torch.dtype], int], before: dict[str, int]) -> str:
    """Why the mutant is noticed; empty if it is not."""
    for name, dtype in itertools.product(setting.cases, (setting.dtype, *setting.also)):
        tried = f"{name} {dtype}"
        try:
            passes = run_case(name, dtype)
        except AssertionError as error:
            return f"{tried}: {(str(error).splitlines() or ['an assertion'])[0][:100]}"
        if passes > 1.01 * before.setdefault(tried, passes):
            return f"{tried}: {passes} wavefronts instead of {before[tried]}"
    return ""


def missed(name: str, only: str) -> int:
    """Tries the mutants of a setting; how many are not noticed."""
    setting, began = SETTINGS[name], time.monotonic()
    chosen = [m for m in mutations() if re.search(setting.where, str(m)) and only in str(m)]
    before: dict[str, int] = {}
    count = 0
    with tempfile.TemporaryDirectory(prefix="natten-mutants-") as folder:
        write(chosen, Path(folder))
        module, run_case = runner(setting, Path(folder))
        switch = ctypes.c_int.in_dll(ctypes.CDLL(module.__file__), "natten_mutant")
        switch.value = 0  # one variable in a process, whichever module asks
        print(f"{name}: compiled in {time.monotonic() - began:.0f} s", flush=True)
        if wrong := noticed(setting, run_case, before):
            raise SystemExit(f"{name} without a mutation: {wrong}")
        for i, mutation in enumerate(chosen, 1):
            switch.value = i
            why = noticed(setting, run_case, before)
            count += not why
            print(f"{'ok    ' if why else 'MISSED'} {mutation}\n         {why}", flush=True)
    print(f"{name}: {count} of {len(chosen)} missed, {time.monotonic() - began:.0f} s", flush=True)
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"of {', '.join(SETTINGS)}; default: all")
    parser.add_argument("--list", action="store_true", help="say what would be tried")
    parser.add_argument("--only", default="", help="mutants whose description contains this")
    arguments = parser.parse_args()
    names = arguments.settings or list(SETTINGS)
    if unknown := set(names) - set(SETTINGS):
        parser.error(f"no setting {', '.join(sorted(unknown))}: there are {', '.join(SETTINGS)}")
    if arguments.list:
        for name in names:
            print(f"{name}:")
            print(
                *(m for m in mutations() if re.search(SETTINGS[name].where, str(m)) and arguments.only in str(m)),
                sep="\n",
            )
        return 0
    return int(sum(missed(name, arguments.only) for name in names) > 0)


if __name__ == "__main__":
    raise SystemExit(main())
