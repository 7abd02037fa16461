"""What can be checked here, one session a task; `nox -l` lists them and `nox` runs them all.

torch is 5 GB, so the sessions that import the packages share one environment, `.nox/shared`, into which the wheels
from `dist/` are installed. Wheels and environments are made when a session needs them and made anew when what they
are made of has changed; remove `dist` or `.nox` to start over.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tarfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "build", "typecheck", "docs", "demo", "bench", "tests", "compat", "dense_clients"]
nox.options.sessions += ["timm_tests", "amx"]

ROOT = Path(__file__).resolve().parent
DIST = ROOT / "dist"
PACKAGES = ("natten-core", "dinat-zoo")
# What depends on the instruction set; how operators are registered and compiled does not.
NUMERIC_TESTS = [
    f"packages/natten-core/tests/test_{name}.py"
    for name in ("confinement", "golden", "gradients", "halves", "random", "two_stage", "values", "windows")
]
# One of every kind, small enough to train on two cores.
SMALL_MODELS = ["dinat_pico", "dinat_mini", "dinat_s_tiny", "dinat_isotropic_small", "vitrpb_small"]
# Those that reach every kernel; torch's own machinery would take most of the time of the others.
SANITIZED_TESTS = [
    f"packages/natten-core/tests/test_{name}.py"
    for name in ("far_apart", "halves", "random", "two_stage", "values", "windows")
]
# No machine with it has run it yet; `NATTEN_CORE_ISA=amx nox -s tests -- packages/natten-core/tests` is for the first.
UNPROVEN = "amx"
# Those of bf16 that tell one kernel from another.
BF16_TESTS = [
    f"packages/natten-core/tests/test_{name}.py"
    for name in ("confinement", "determinism", "far_apart", "halves", "random", "values")
]
RUNTIMES = ("libasan.so", "libstdc++.so")  # the second so that its exceptions are seen from the start
GROUPS = nox.project.load_toml(ROOT / "pyproject.toml")
# Devices that wheels have CUDA kernels for, where there is nvcc: "all" for a release, else one, to save minutes.
CUDA_ARCHITECTURES = os.environ.get("NATTEN_CUDA_ARCHITECTURES", "90")


@nox.session
def lint(session: nox.Session) -> None:
    """Style and cheap consistency checks, without torch: ruff, clang-format, version pins, the tree's own rules."""
    python = environment(session, "lint", group("lint"))
    run(session, python, "-m", "ruff", "check")
    run(session, python, "-m", "ruff", "format", "--check")
    sources = [str(path) for path in sorted((ROOT / "packages/natten-core/csrc").rglob("*")) if is_cxx(path)]
    run(session, python.parent / "clang-format", "--dry-run", "-Werror", *sources)
    run(session, python, "ci/check_pins.py")
    run(session, python, "ci/check_tree.py")


@nox.session
def build(session: nox.Session) -> None:
    """Wheels and sdists of both packages in dist/, inspected."""
    wheels(session)
    python = environment(session, "build", group("build"))
    run(session, python, "ci/check_wheel.py", *sorted(DIST.glob("*.whl")), *sorted(DIST.glob("*.tar.gz")))


@nox.session
def typecheck(session: nox.Session) -> None:
    """Strict mypy on both packages' sources, against the dependencies as installed."""
    run(session, shared(session), "-m", "mypy", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Every test against the installed wheels, the kernels' under each instruction set; arguments go to pytest."""
    python = shared(session)
    pytest = python.parent / "pytest"
    if session.posargs:
        run(session, pytest, *session.posargs)
        return
    # One process a CPU; their threads, where tests want several, must not wait for each other at full speed.
    workers = ("-n", str(min(4, os.cpu_count() or 1)), "--dist", "worksteal")
    environ = {"OMP_WAIT_POLICY": "passive"}
    run(session, pytest, *workers, "--durations=15", env={**environ, "REQUIRE_INSTALLED_WHEELS": "1"})
    listing = "import natten_core as n; i = n.build_info(); print(i['isa_active'], *i['isa_present'])"
    active, *present = str(session.run(str(python), "-c", listing, silent=True)).split()
    for isa in present:
        if isa not in (active, UNPROVEN):
            session.log(f"kernels under {isa}")
            run(session, pytest, *workers, "-m", "kernels", *NUMERIC_TESTS, env={**environ, "NATTEN_CORE_ISA": isa})


@nox.session
def dense_clients(session: nox.Session) -> None:
    """Other libraries' detection and segmentation models on our backbones, with these libraries installed."""
    python = environment(session, "dense-clients", group("dense-clients"), beside=shared(session))
    names = [f"dense/test_{name}" for name in ("clients", "mask2former", "oneformer", "adapters")]
    names += ["cli/test_segment_queries", "weights/test_every_format"]
    run(session, python, "-m", "pytest", *(f"packages/dinat-zoo/tests/{name}.py" for name in names), *session.posargs)


@nox.session
def timm_tests(session: nox.Session) -> None:
    """timm's own tests/test_models.py, from its sdist, on our small models; arguments are patterns of other models.

    With `--record` among them the results go into the table that docs/reference/models.md is made of.
    """
    python = shared(session)
    release = str(session.run(str(python), "-c", "import timm; print(timm.__version__)", silent=True)).strip()
    home = ROOT / "build" / "timm"
    archive = home / f"timm-{release}.tar.gz"
    if not archive.is_file():
        source = ("--no-deps", "--no-binary=timm", f"--dest={home}", f"timm=={release}")
        run(session, python, "-m", "pip", "download", "--quiet", *source)
    with tarfile.open(archive) as sdist:
        for name in ("pyproject.toml", "tests/test_models.py"):  # not the package, which would hide the installed one
            sdist.extract(f"timm-{release}/{name}", home, filter="data")
    unpacked = home / f"timm-{release}"
    options = ("-c", unpacked / "pyproject.toml", "-p", "timm_suite", "-q", "--durations=5")
    patterns = [argument for argument in session.posargs if argument != "--record"]
    models = ["--zoo-models", *(patterns or SMALL_MODELS)]
    if "--record" in session.posargs:
        models += ["--zoo-record", str(ROOT / "packages/dinat-zoo/tests/data/timm-tests.csv")]
    environ = {"PYTHONPATH": str(ROOT / "ci")}
    run(session, python.parent / "pytest", *options, unpacked / "tests/test_models.py", *models, env=environ)


@nox.session
def compat(session: nox.Session) -> None:
    """Hugging Face's DiNAT and NAT on natten_core.compat, against dinat-zoo's; arguments go to pytest."""
    python = environment(session, "compat", group("compat"), beside=shared(session))
    arguments = session.posargs or ["tests/test_stranded_clients.py"]
    run(session, python, "-m", "pytest", *arguments, env={"REQUIRE_TRANSFORMERS": "1"})


@nox.session
def sanitize(session: nox.Session) -> None:
    """The table of cases on CPU kernels with address and undefined-behaviour sanitizers; arguments go to pytest."""
    python = special(session, "sanitize", "-DNATTEN_SANITIZE=ON -DNATTEN_AMX=EMULATED")
    compiler = os.environ.get("CXX", "g++")
    find = (str(session.run(compiler, f"-print-file-name={name}", silent=True, external=True)) for name in RUNTIMES)
    libraries = [path.strip() for path in find]
    checks = {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OMP_NUM_THREADS": "1",
    }
    listing = "import natten_core as n; print(*n.build_info()['isa_present'])"
    for isa in str(session.run(str(python), "-c", listing, silent=True, env=checks)).split():
        session.log(f"kernels under {isa}")
        run(
            session,
            *(python, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(session.posargs or ["-m", "kernels", *SANITIZED_TESTS]),
            env={**checks, "NATTEN_CORE_ISA": isa},
        )


@nox.session
def amx(session: nox.Session) -> None:
    """The tests of bf16 on CPU kernels with AMX emulated, where there is AVX512-BF16; arguments go to pytest."""
    facts = Path("/proc/cpuinfo")
    if not facts.is_file() or "avx512_bf16" not in facts.read_text():
        session.skip("AMX is emulated on processors with AVX512-BF16")
    python = special(session, "amx", "-DNATTEN_AMX=EMULATED -DNATTEN_HAS_AVX2=OFF")
    tests = ["-m", "kernels", "-k", "(bfloat16 or halves or random) and not stages", *BF16_TESTS]
    workers = ("-n", str(min(4, os.cpu_count() or 1)), "--dist", "worksteal")
    environ = {"NATTEN_CORE_ISA": "amx_emulated", "OMP_WAIT_POLICY": "passive"}
    arguments = session.posargs or [*workers, *tests]
    run(session, python, "-m", "pytest", "-p", "no:cacheprovider", *arguments, env=environ)


@nox.session
def cuda_resources(session: nox.Session) -> None:
    """Registers, spills and shared memory of every CUDA kernel, from nvcc; unlisted spills are a failure."""
    default = ["--arch", "all"] if CUDA_ARCHITECTURES == "all" else []
    run(session, sys.executable, "ci/cuda_resources.py", *(session.posargs or default))


@nox.session
def bench(session: nox.Session) -> None:
    """The operator's benchmark in its short form; arguments replace it (see packages/natten-core/benchmarks)."""
    run(session, shared(session), "packages/natten-core/benchmarks/bench_na.py", *(session.posargs or ["--short"]))


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as HTML in build/docs; every warning and every broken reference is an error."""
    run(session, shared(session), "-m", "sphinx", "-n", "-W", "--keep-going", "-q", "docs", "build/docs")


@nox.session
def demo(session: nox.Session) -> None:
    """Classifies the example images with the installed wheels and the bundled model."""
    python = shared(session)
    run(session, python.parent / "dinat-zoo", "classify", *(session.posargs or ["examples/"]))


def run(session: nox.Session, *command: str | Path, env: dict[str, str] | None = None) -> None:
    session.run(*(str(part) for part in command), env=env)


def group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(GROUPS, name))


def is_cxx(path: Path) -> bool:
    return path.suffix in {".cpp", ".h", ".cu", ".cuh"}


def environment(session: nox.Session, name: str, requirements: list[str], beside: Path | None = None) -> Path:
    """Returns the Python of `.nox/NAME`, which is made anew when its requirements or this Python have changed.

    It also sees the packages of the environment that the Python `beside` belongs to; its own go before them.
    """
    home = ROOT / ".nox" / name
    below = [] if beside is None else [(beside.parent.parent / "made-of.txt").read_text()]
    stamp, wanted = home / "made-of.txt", "\n".join([sys.version, *requirements, *below])
    python = home / "bin" / "python"
    if not stamp.is_file() or stamp.read_text() != wanted:
        shutil.rmtree(home, ignore_errors=True)
        run(session, sys.executable, "-m", "venv", home)
        if beside is not None:
            (site_packages(python) / "beside.pth").write_text(f"{site_packages(beside)}\n")
        run(session, python, "-m", "pip", "install", "--quiet", *requirements)
        stamp.write_text(wanted)
    return python


def site_packages(python: Path) -> Path:
    return next(python.parent.parent.glob("lib/python*/site-packages"))


def wheels(session: nox.Session) -> list[Path]:
    """Returns both wheels, built (from their sdists, in isolation) where dist/ has none of the present sources."""
    for package in PACKAGES:
        stamp, wanted = DIST / f".{package}.sha256", sources_digest(ROOT / "packages" / package) + build_options()
        if stamp.is_file() and stamp.read_text() == wanted:
            continue
        for old in DIST.glob(f"{package.replace('-', '_')}-*"):
            old.unlink()
        python = environment(session, "build", group("build"))
        options = {"CMAKE_ARGS": f"-DNATTEN_CUDA_ARCHITECTURES={CUDA_ARCHITECTURES} {os.environ.get('CMAKE_ARGS', '')}"}
        run(session, python, "-m", "build", "--outdir", DIST, f"packages/{package}", env=options)
        stamp.write_text(wanted)
    return sorted(DIST.glob("*.whl"))


def shared(session: nox.Session) -> Path:
    """Returns the Python of the environment with torch, the test and documentation tools, and both wheels as built."""
    built = wheels(session)
    python = environment(session, "shared", [*runtime_requirements(), *group("shared")])
    stamp, wanted = python.parent.parent / "wheels.txt", digest(built)
    if not stamp.is_file() or stamp.read_text() != wanted:
        run(session, python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", *built)
        run(session, python, "-m", "pip", "check")
        stamp.write_text(wanted)
    return python


def special(session: nox.Session, name: str, options: str) -> Path:
    """Returns the Python of `.nox/NAME`.

    It has natten-core built without CUDA and with these options of CMake, and everything else from `.nox/shared`.
    """
    others = environment(session, "shared", [*runtime_requirements(), *group("shared")])
    package = ROOT / "packages" / "natten-core"
    tools = nox.project.load_toml(package / "pyproject.toml")["build-system"]["requires"]
    python = environment(session, name, [*tools, "cmake", "ninja"])  # tools of its own, which CMake finds there
    (site_packages(python) / "beside.pth").write_text(f"{site_packages(others)}\n")
    stamp, wanted = python.parent.parent / "built-of.txt", f"{sources_digest(package)} {options}"
    if not stamp.is_file() or stamp.read_text() != wanted:
        install = ["--no-deps", "--no-build-isolation", "--ignore-installed"]
        install += [f"--config-settings=build-dir=build/{name}"]
        flags = {
            "CMAKE_ARGS": f"-DNATTEN_CUDA=OFF {options}",
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",  # cmake and ninja
        }
        run(session, python, "-m", "pip", "install", "--quiet", *install, package, env=flags)
        stamp.write_text(wanted)
    return python


def runtime_requirements() -> list[str]:
    projects = [nox.project.load_toml(ROOT / "packages" / package / "pyproject.toml") for package in PACKAGES]
    needed = [requirement for project in projects for requirement in project["project"]["dependencies"]]
    return sorted({requirement for requirement in needed if not requirement.startswith(PACKAGES)})


def sources_digest(package: Path) -> str:
    """Digest of what goes into a package's sdist, and of the Python that its wheel is built for."""
    parts = [part for part in package.iterdir() if part.name not in {"tests", "benchmarks", "build", "dist"}]
    files = [file for part in parts for file in (part.rglob("*") if part.is_dir() else [part]) if file.is_file()]
    sources = sorted(file for file in files if file.suffix not in {".pyc", ".so"})
    return digest(sources) + " " + sys.implementation.cache_tag


def build_options() -> str:
    """What decides beside the sources what a wheel holds."""
    return f" {shutil.which('nvcc')} {CUDA_ARCHITECTURES} {os.environ.get('CMAKE_ARGS', '')}"


def digest(files: list[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        total.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return total.hexdigest()
