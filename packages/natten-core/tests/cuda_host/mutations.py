"""Takes one barrier, wait, commit, swizzle or conversion out of the kernels at a time: would the tests notice?

    python mutations.py [--list] [--only TEXT] simt dense dense-tf32 band box band-16 band-64 band-128 ...

Each mutant is compiled and run on a few cases. It is noticed if the emulator reports something, a result is wrong, or
shared memory is passed over more often than before.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))

import cuda_builder
import torch
from cuda_cases import NAMED, hold, run
from cuda_harness import EmulatorError, Options

_CALL = re.compile(
    r"(?:dev::)?\b(?:syncthreads|syncwarp|cp_async_wait<[^;]*?>|cp_async_commit|cp_async_mbarrier_arrive|bar_sync"
    r"|bar_arrive|barrier|mbarrier_init|mbarrier_arrive|mbarrier_wait)\((?!\)\s*\{)[^;{]*\)(?=;|,)"
)
_XOR = re.compile(r" \^ ")
_CONVERSION = re.compile(r"dev::to_tf32\(")


class Setting(NamedTuple):
    """What mutants of a family are tried on."""

    family: str
    dtype: torch.dtype
    cases: tuple[str, ...]
    without: str = ""  # sources that these cases do not need
    only: str = ""  # regular expression of the mutants that these cases can notice
    borrowed: tuple[str, ...] = ()  # files of other families whose mutants are tried on these cases too
    also: tuple[torch.dtype, ...] = ()  # for mutants that the dtype does not notice

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        return (self.dtype, *self.also)


BORROWED = ("band/fragments.h", "band/signals.h", "band/backward_bias.h", "band/backward_reduce.cu")
SHARED = "fragments|signals|syncthreads|backward_bias"
SETTINGS = {
    "simt": Setting(
        "simt",
        torch.float32,
        ("2d-dilated-remainder", "2d-head-dim-32", "2d-head-dim-67"),
        r"^(float16|bfloat16|float64)\.cu",
    ),
    "dense": Setting(
        "dense",
        torch.bfloat16,
        ("d-dilated-remainder", "d-128", "d-many-maps", "d-128-many-maps"),
        r"_half\.cu",
        also=(torch.float32,),
    ),
    "dense-tf32": Setting(
        "dense",
        torch.float32,
        ("d-dilated-remainder", "d-64", "d-128", "d-many-maps", "d-128-many-maps"),
        r"_half\.cu",
        also=(torch.bfloat16,),
    ),
    "band": Setting(
        "band",
        torch.bfloat16,
        ("b-dilated-remainder", "b-grouped", "b-wide", "b-tall", "b-idle-warp", "b-many-samples"),
        r"_half_d\d+\.cu|_bf16_d(16|64|128)\.cu",
    ),
    "box": Setting(
        "box",
        torch.bfloat16,
        ("x-3d-7", "x-3d-dilated", "x-3d-wide", "x-3d-grouped", "x-3d-tall", "x-1d-dilated", "x-many-planes"),
        r"_half_d\d+\.cu|_bf16_d(64|128)\.cu",
        borrowed=BORROWED,
    ),
    # Other head_dims and the other dtype: kernels of their own, from the same lines.
    "band-16": Setting("band", torch.bfloat16, ("b-16",), r"_half_d\d+\.cu|_bf16_d(32|64|128)\.cu", SHARED),
    "band-64": Setting("band", torch.bfloat16, ("b-64", "b-1d-13"), r"_half_d\d+\.cu|_bf16_d(16|32|128)\.cu", SHARED),
    "band-128": Setting("band", torch.bfloat16, ("b-128",), r"_half_d\d+\.cu|_bf16_d(16|32|64)\.cu", SHARED),
    "band-half": Setting("band", torch.float16, ("b-13x17",), r"_bf16_d\d+\.cu|_half_d(16|64|128)\.cu", SHARED),
    "box-64": Setting("box", torch.bfloat16, ("x-3d-64",), r"_half_d\d+\.cu|_bf16_d(32|128)\.cu", SHARED, BORROWED),
    "box-128": Setting("box", torch.bfloat16, ("x-3d-128",), r"_half_d\d+\.cu|_bf16_d(32|64)\.cu", SHARED, BORROWED),
}


class Mutation(NamedTuple):
    path: Path
    line: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(cuda_builder.CSRC / 'cuda')}:{self.line}: {self.before.strip()}"


def mutations(name: str) -> Iterator[Mutation]:
    cuda, setting = cuda_builder.CSRC / "cuda", SETTINGS[name]
    own = sorted(path for path in (cuda / setting.family).iterdir() if path.suffix in {".h", ".cuh", ".cu"})
    for path in [*own, *(cuda / name for name in setting.borrowed)]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.split("//")[0]
            for found in _CALL.finditer(code):
                yield Mutation(path, number, line, line[: found.start()] + "static_cast<void>(0)" + line[found.end() :])
            for found in _XOR.finditer(code):
                yield Mutation(path, number, line, line[: found.start()] + " + 0 * " + line[found.end() :])
            for found in _CONVERSION.finditer(code) if torch.float32 in setting.dtypes else ():
                yield Mutation(path, number, line, line[: found.start()] + "dev::not_to_tf32(" + line[found.end() :])


def outcome(setting: Setting, changed: Path | None, before: dict[str, int]) -> str:
    """Why the mutant is noticed; empty if it is not. Without a mutant, `before` is filled."""
    for name, dtype in itertools.product(setting.cases, setting.dtypes):
        options = Options(changed=changed, without=setting.without, count_banks=True, multiprocessors=4)
        tried = f"{name} {dtype}"
        try:
            found = run(setting.family, NAMED[name], dtype, options=options)
            hold(setting.family, NAMED[name], dtype, found, slack=1e-6)
        except EmulatorError as error:
            return f"{tried}: {str(error).splitlines()[0][:100]}"
        except AssertionError as error:
            return f"{tried}: {str(error).splitlines()[0][:100]}"
        total = options.total_wavefronts
        if changed is None:
            before[tried] = total
        elif total > 1.01 * before[tried]:
            return f"{tried}: {total} wavefronts instead of {before[tried]}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--list", action="store_true", help="say what would be tried")
    parser.add_argument("--only", default="", help="mutants whose description contains this")
    arguments = parser.parse_args()
    missed = 0
    for name in arguments.settings:
        chosen = [mutation for mutation in mutations(name) if arguments.only in str(mutation)]
        chosen = [mutation for mutation in chosen if re.search(SETTINGS[name].only, str(mutation))]
        if arguments.list:
            print(*chosen, sep="\n")
            continue
        before: dict[str, int] = {}
        if wrong := outcome(SETTINGS[name], None, before):
            print(f"{name} without a mutation: {wrong}")
            return 1
        for mutation in chosen:
            noticed = tried(SETTINGS[name], mutation, before)
            missed += not noticed
            print(f"{'ok    ' if noticed else 'MISSED'} {mutation}\n         {noticed}", flush=True)
    print(f"{missed} missed")
    return int(missed > 0)


def tried(setting: Setting, mutation: Mutation, before: dict[str, int]) -> str:
    with tempfile.TemporaryDirectory(prefix="natten-mutant-") as folder:
        changed = Path(folder)
        copy = changed / "csrc" / mutation.path.relative_to(cuda_builder.CSRC)
        copy.parent.mkdir(parents=True)
        lines = mutation.path.read_text().splitlines()
        lines[mutation.line - 1] = mutation.after
        copy.write_text("\n".join(lines) + "\n")
        return outcome(setting, changed, before)


if __name__ == "__main__":
    raise SystemExit(main())
