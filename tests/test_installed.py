"""What a person gets from `pip install`: the wheels that the session built, not the source tree."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import dinat_zoo
import natten_core

PACKAGES = {"natten-core": natten_core, "dinat-zoo": dinat_zoo}


@pytest.mark.skipif(
    "REQUIRE_INSTALLED_WHEELS" not in os.environ, reason="set by `nox -s tests`; an editable one is fine"
)
@pytest.mark.parametrize("name", PACKAGES)
def test_imported_from_the_installed_wheel(name: str, root: Path) -> None:
    where = Path(str(PACKAGES[name].__file__)).resolve()
    assert where.is_relative_to(Path(sys.prefix).resolve())
    assert not where.is_relative_to(root / "packages")
    listed = {Path(str(file.locate())).resolve() for file in metadata.files(name) or []}
    assert where in listed


@pytest.mark.parametrize("name", PACKAGES)
def test_version_and_licence_in_the_metadata(name: str) -> None:
    assert metadata.version(name) == PACKAGES[name].__version__
    assert metadata.metadata(name)["License-Expression"] == "MIT"
    assert metadata.metadata(name)["Requires-Python"] == ">=3.10"


def test_natten_core_needs_torch_alone() -> None:
    needed = [Requirement(text) for text in metadata.requires("natten-core") or []]
    assert [requirement.name for requirement in needed if requirement.marker is None] == ["torch"]


def test_natten_core_works_with_torch_alone(run) -> None:
    """It brings none of the zoo's dependencies, starts no CUDA context, and works where numpy or a GPU are missing."""
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "import torch, natten_core\n"
        "x = torch.randn(1, 64, 2, 32); natten_core.na1d(x, x, x, 7, backend='cpu')\n"
        "print(sorted({'timm', 'torchvision', 'PIL', 'dinat_zoo'} & set(sys.modules)), torch.cuda.is_initialized())"
    )
    done = run("python", "-c", code, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[] False"


def test_one_openmp_runtime_in_the_process(run) -> None:
    code = (
        "import re, torch, natten_core;"
        "x = torch.randn(1, 64, 2, 32); natten_core.na1d(x, x, x, 7, backend='cpu');"
        "maps = open('/proc/self/maps').read();"
        "print(len(set(re.findall(r'/\\S*lib(?:gomp|omp|iomp)\\S*', maps))))"
    )
    done = run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1"


def test_diagnostics_name_both_versions_and_the_active_kernel(run) -> None:
    import torch

    done = run("python", "-m", "natten_core")
    assert done.returncode == 0, done.stderr
    for fact in (natten_core.__version__, torch.__version__, natten_core.build_info()["isa_active"]):
        assert fact in done.stdout


def test_command_without_arguments_says_how_it_is_used(run) -> None:
    done = run("dinat-zoo")
    assert done.returncode == 2
    assert "classify" in done.stderr + done.stdout
