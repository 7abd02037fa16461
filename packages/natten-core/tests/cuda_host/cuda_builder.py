"""Compiles kernels for the CPU with g++, on demand, and loads them: one extension module for each set of sources.

What is compiled is kept in packages/natten-core/build/cuda_host, and compiled again when it, or anything that it
includes, has changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1]
CSRC = PACKAGE / "csrc"
BUILD = PACKAGE / "build" / "cuda_host"
COMPILER = os.environ.get("CXX") or "g++"
# No contraction: nvcc's choices are its own, and kernels that want a fused operation say so.
FLAGS = ["-std=c++17", "-O1", "-march=native", "-ffp-contract=off", "-fPIC", "-pthread", "-fvisibility=hidden"]
FLAGS += ["-Wall", "-Wextra", "-Wno-unknown-pragmas"]
PARALLEL = 2
# Kernels of other families that a family starts.
_BORROWED = {"box": ("band/backward_reduce.cu",)}


def unavailable() -> str:
    """Why nothing can be compiled here; empty where it can."""
    if shutil.which(COMPILER) is None:
        return f"no {COMPILER}"
    if importlib.util.find_spec("pybind11") is None:
        return "no pybind11"
    return ""


def families() -> list[str]:
    """Those that have a header and kernels."""
    return [name for name in ("simt", "dense", "band", "box") if _sources(name)]


_failed: dict[str, str] = {}


@lru_cache
def family_module(family: str, changed: Path | None = None, without: str = "") -> ModuleType:
    """The extension module that runs `family`.

    Args:
        changed: a folder whose files, csrc/cuda/..., replace those of the project.
        without: regular expression of the names of sources to leave out.
    """
    sources = [HERE / "module.cpp", HERE / "entry.cpp", *_sources(family)]
    if len(sources) == 2:
        raise FileNotFoundError(f"no kernels of {family}")
    definitions = [f"-DFAMILY={family}", f'-DFAMILY_HEADER="cuda/{family}/{family}.h"']
    if changed is None and family in _failed:
        raise RuntimeError(_failed[family])
    chosen = [source for source in sources if not (without and re.search(without, source.name))]
    try:
        return module(family, chosen, {HERE / "entry.cpp": definitions}, changed)
    except RuntimeError as error:
        if changed is None:
            _failed[family] = f"{family} did not compile: see above"
        raise error


@lru_cache
def two_stage_module(changed: Path | None = None, without: str = "") -> ModuleType:
    """The extension module that runs the two-stage form of the family "simt"; arguments as of `family_module`."""
    folder = CSRC / "cuda" / "simt"
    sources = [HERE / "two_stage_module.cpp", *sorted(folder.glob("two_stage*.cu"))]
    sources += [folder / "two_stage.cpp", folder / "tiling.cpp"]
    chosen = [source for source in sources if not (without and re.search(without, source.name))]
    return module("simt_two_stage", chosen, changed=changed)


def module(
    name: str, sources: Sequence[Path], flags: dict[Path, list[str]] | None = None, changed: Path | None = None
) -> ModuleType:
    """Builds `sources` into an extension module, `_cuda_host` to Python, and loads it."""
    include = [f"-I{CSRC}", f"-I{CSRC / 'include'}", f"-I{HERE}"]
    include += [f"-isystem{_pybind11()}", f"-isystem{sysconfig.get_paths()['include']}"]
    home = BUILD / name
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        jobs = []
        for source in sources:
            of_source = (flags or {}).get(source, [])
            alike = sum(source.name == other.name for other in sources) > 1
            job = (
                source,
                home / f"{source.parent.name if alike else ''}{source.name}.o",
                [*FLAGS, *include, *of_source],
            )
            if changed is not None and (moved := _moved(source, job[1], changed)):
                job = (moved, changed / f"{source.name}.o", [*FLAGS, f"-I{changed / 'csrc'}", *include, *of_source])
            jobs.append(job)
        with ThreadPoolExecutor(PARALLEL) as pool:
            made = list(pool.map(lambda job: _compile(*job), jobs))
        objects = [str(target) for _, target, _ in jobs]
        identity = hashlib.sha256("\n".join(made).encode()).hexdigest()[:16]
        library = (changed or home) / f"{identity}.so"
        if not library.is_file():
            for old in library.parent.glob("*.so"):
                old.unlink()
            # Lazily bound: what a family declares but does not have is an error only when it is called.
            _run([COMPILER, "-shared", "-pthread", "-Wl,-z,lazy", *objects, "-o", str(library)])
        return load(str(library))


def warnings(name: str) -> str:
    """What the compiler had to say about the sources of `name` when it last compiled them."""
    return "".join(log.read_text() for log in sorted((BUILD / name).glob("*.log")))


def _sources(family: str) -> list[Path]:
    folder = CSRC / "cuda" / family
    kernels = sorted(folder.glob("*.cu"))
    kernels += [CSRC / "cuda" / path for path in _BORROWED.get(family, ()) if kernels]
    return [*kernels, *sorted(folder.glob("*.cpp"))] if (folder / f"{family}.h").is_file() and kernels else []


def _moved(source: Path, compiled: Path, changed: Path) -> Path | None:
    """What to compile instead of `source`, if anything that it was made of has changed: its copy, or itself."""
    copies = {
        CSRC / path.relative_to(changed / "csrc"): path for path in (changed / "csrc").rglob("*") if path.is_file()
    }
    stamp = compiled.with_suffix(".json")
    made_of = json.loads(stamp.read_text())["files"] if stamp.is_file() else {}
    if not made_of or any(str(path) in made_of for path in copies):
        return copies.get(source, source)
    return None


def _compile(source: Path, target: Path, flags: list[str]) -> str:
    """Compiles where needed; returns what the object was made of, as a digest."""
    stamp, depends = target.with_suffix(".json"), target.with_suffix(".d")
    command = [COMPILER, *flags, "-MMD", "-MF", str(depends), "-x", "c++", "-c", str(source), "-o", str(target)]
    if stamp.is_file() and target.is_file():
        known = json.loads(stamp.read_text())
        if known["command"] == command and all(_digest(path) == value for path, value in known["files"].items()):
            return hashlib.sha256(stamp.read_bytes()).hexdigest()
    stamp.unlink(missing_ok=True)
    target.with_suffix(".log").write_text(_run(command))
    names = depends.read_text().replace("\\\n", " ").split()[1:]
    ours = [name for name in names if not name.startswith(("/usr/", "/opt/"))]
    stamp.write_text(json.dumps({"command": command, "files": {name: _digest(name) for name in ours}}))
    return hashlib.sha256(stamp.read_bytes()).hexdigest()


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return "missing"


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return done.stderr


@lru_cache
def load(path: str) -> ModuleType:
    """The module at `path`, whose name is like no other's."""
    name = f"cuda_host_{Path(path).stem}._cuda_host"  # pybind11 makes one module for each name
    spec = importlib.util.spec_from_file_location(name, path, loader=ExtensionFileLoader(name, path))
    assert spec is not None
    assert spec.loader is not None
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_LOCAL)
    try:
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
    finally:
        sys.setdlopenflags(flags)
    return loaded


def _pybind11() -> str:
    import pybind11

    return str(pybind11.get_include())
