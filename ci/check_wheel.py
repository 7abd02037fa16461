"""Inspects built wheels and sdists instead of trusting them: `python ci/check_wheel.py dist/*.whl dist/*.tar.gz`.

For each archive: what must be in it and what must not, its size, its licence. For the compiled module also: which
libraries it needs (so that one wheel runs beside every torch, with or without a GPU), that it carries no search path
of the machine that built it, and that it exports its init function and nothing else. Prints each fault and exits
with 1 if there are any. Needs pyelftools.
"""

from __future__ import annotations

import io
import re
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

MB = 1_000_000
NEEDED = re.compile(r"lib(c|m|gcc_s|stdc\+\+|gomp|pthread|dl|rt)\.so\.\d+|ld-linux[\w-]*\.so\.\d+")
SOURCE_ONLY = re.compile(r"(^|/)(tests|benchmarks|build|csrc|__pycache__)/|\.(pyc|o|a)$")


@dataclass(frozen=True)
class Rules:
    """What an archive of one kind must hold (regular expressions for whole paths), and how large it may be."""

    limit: int
    required: tuple[str, ...]
    forbidden: re.Pattern[str]


RULES = {
    ("natten_core", "wheel"): Rules(
        limit=20 * MB,
        required=(
            r"natten_core/__init__\.py",
            r"natten_core/py\.typed",
            r"natten_core/_C\.pyi",
            r"natten_core/_C\.[\w-]+\.so",
            r"natten_core-[^/]+\.dist-info/licenses/LICENSE",
        ),
        forbidden=SOURCE_ONLY,
    ),
    ("natten_core", "sdist"): Rules(
        limit=4 * MB,
        required=(
            r"pyproject\.toml",
            r"CMakeLists\.txt",
            r"csrc/.+\.cpp",
            r"csrc/.+\.cu",
            r"LICENSE",
            r"src/natten_core/__init__\.py",
        ),
        forbidden=re.compile(r"(^|/)(build|__pycache__)/|\.(pyc|o|a|so)$"),
    ),
    ("dinat_zoo", "wheel"): Rules(
        limit=6 * MB,
        required=(
            r"dinat_zoo/__init__\.py",
            r"dinat_zoo/py\.typed",
            r"dinat_zoo/weights/dinat_pico\.fashion_mnist\.safetensors",
            r"dinat_zoo/weights/dinat_pico\.fashion_mnist\.md",
            r"dinat_zoo/weights/published\.csv",
            r"dinat_zoo/recipes/.+\.py",
            r"dinat_zoo-[^/]+\.dist-info/entry_points\.txt",
            r"dinat_zoo-[^/]+\.dist-info/licenses/LICENSE",
        ),
        forbidden=re.compile(SOURCE_ONLY.pattern + r"|\.so$"),
    ),
    ("dinat_zoo", "sdist"): Rules(
        limit=12 * MB,
        required=(r"pyproject\.toml", r"LICENSE", r"src/dinat_zoo/__init__\.py"),
        forbidden=re.compile(r"(^|/)(build|__pycache__)/|\.(pyc|so)$"),
    ),
}
WEIGHTS_LIMIT = 4 * MB


def faults(archive: Path) -> list[str]:
    """Returns a line for every rule that the archive breaks.

    Raises:
        ValueError: if the file is no wheel or sdist of these packages.
    """
    kind = "wheel" if archive.suffix == ".whl" else "sdist"
    package = archive.name.split("-")[0]
    if (package, kind) not in RULES:
        raise ValueError(f"{archive.name}: neither a wheel nor an sdist of {sorted({name for name, _ in RULES})}")
    rules, files = RULES[package, kind], read(archive, kind)
    found = [f"nothing matches {want}" for want in rules.required if not any(re.fullmatch(want, f) for f in files)]
    found += [f"has {name}, which does not belong in it" for name in files if rules.forbidden.search(name)]
    if archive.stat().st_size > rules.limit:
        found.append(f"{archive.stat().st_size} bytes, over the limit of {rules.limit}")
    weights = sum(len(data) for name, data in files.items() if kind == "wheel" and name.endswith(".safetensors"))
    if weights >= WEIGHTS_LIMIT:
        found.append(f"{weights} bytes of weights, limit {WEIGHTS_LIMIT}")
    for name, data in files.items():
        if kind == "wheel" and name.endswith(".so"):
            init = "PyInit_" + Path(name).name.split(".")[0]
            found += [f"{name}: {fault}" for fault in module_faults(data, init)]
    return [f"{archive.name}: {fault}" for fault in found]


def read(archive: Path, kind: str) -> dict[str, bytes]:
    """Returns the archive's files by path; an sdist's paths are relative to its one top folder."""
    if kind == "wheel":
        with zipfile.ZipFile(archive) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist() if not name.endswith("/")}
    with tarfile.open(archive) as sdist:
        members = [member for member in sdist.getmembers() if member.isfile()]
        return {m.name.partition("/")[2]: handle.read() for m in members if (handle := sdist.extractfile(m))}


def module_faults(data: bytes, init: str) -> list[str]:
    """Returns what is wrong with a compiled module: libraries it must not need, search paths, exports beside `init`."""
    elf = ELFFile(io.BytesIO(data))
    found = []
    for section in elf.iter_sections():
        if isinstance(section, DynamicSection):
            for tag in section.iter_tags():
                if tag.entry.d_tag == "DT_NEEDED" and not NEEDED.fullmatch(tag.needed):
                    found.append(f"needs {tag.needed}; allowed are the C and C++ runtimes and libgomp")
                if tag.entry.d_tag in {"DT_RPATH", "DT_RUNPATH"}:
                    found.append(f"carries the library search path of its build: {tag.entry.d_tag}")
    exports = exported(elf)
    if init not in exports:
        found.append(f"does not export {init}")
    if others := sorted(exports - {init}):
        found.append(f"exports {len(others)} names beside {init}: {', '.join(others[:3])} ...; hide them at link time")
    return found


def exported(elf: ELFFile) -> set[str]:
    """Returns the names that other libraries can see."""
    table = elf.get_section_by_name(".dynsym")
    if not isinstance(table, SymbolTableSection):
        return set()
    return {
        symbol.name
        for symbol in table.iter_symbols()
        if symbol.name
        and symbol["st_shndx"] != "SHN_UNDEF"
        and symbol["st_info"]["bind"] != "STB_LOCAL"
        and symbol["st_other"]["visibility"] in {"STV_DEFAULT", "STV_PROTECTED"}
    }


def main(arguments: list[str]) -> int:
    """Checks the archives named, and that there is a wheel and an sdist of each package among them."""
    archives = [Path(argument) for argument in arguments]
    found = [fault for archive in archives for fault in faults(archive)]
    given = {(path.name.split("-")[0], "wheel" if path.suffix == ".whl" else "sdist") for path in archives}
    found += [f"no {kind} of {package} was given" for package, kind in RULES if (package, kind) not in given]
    for archive in archives:
        print(f"{archive.name}: {archive.stat().st_size / MB:.2f} MB")
    print(*(found or ["wheels: contents, sizes, licences, libraries and exports are in order"]), sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
