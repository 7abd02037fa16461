"""The inspections of ci/ find what they are there to find."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch

import natten_core


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A minimal tree on which all versions agree."""
    for name, dependencies in {"natten-core": '["torch>=2.7"]', "dinat-zoo": '["natten-core>=0.3,<0.4"]'}.items():
        package = tmp_path / "packages" / name
        source = package / "src" / name.replace("-", "_")
        source.mkdir(parents=True)
        (source / "__init__.py").write_text('__version__ = "0.3.1"\n')
        (package / "LICENSE").write_text("terms")
        (package / "pyproject.toml").write_text(
            f'[project]\nname = "{name}"\nversion = "0.3.1"\ndependencies = {dependencies}\n'
        )
    (tmp_path / "LICENSE").write_text("terms")
    (tmp_path / "CHANGELOG.md").write_text("## dinat-zoo 0.3.1\n\n## natten-core 0.3.1\n")
    return tmp_path


def test_pins_agree(tree: Path, ci_script) -> None:
    assert ci_script("check_pins").disagreements(tree) == []


@pytest.mark.parametrize(
    ("path", "old", "new", "finding"),
    [
        ("packages/natten-core/pyproject.toml", "0.3.1", "0.4.0", "does not admit the natten-core 0.4.0"),
        ("packages/dinat-zoo/pyproject.toml", "natten-core>=0.3,<0.4", "timm", "does not depend on natten-core"),
        ("packages/dinat-zoo/src/dinat_zoo/__init__.py", "0.3.1", "0.3.0", "__version__ is 0.3.0"),
        ("CHANGELOG.md", "## natten-core 0.3.1", "## natten-core 0.3.0", "no heading '## natten-core 0.3.1'"),
        ("packages/dinat-zoo/LICENSE", "terms", "other terms", "differs from the LICENSE"),
    ],
)
def test_pins_disagree(tree: Path, ci_script, path: str, old: str, new: str, finding: str) -> None:
    file = tree / path
    file.write_text(file.read_text().replace(old, new))
    assert any(finding in line for line in ci_script("check_pins").disagreements(tree))


def test_includes_that_stop_at_the_bindings(tmp_path: Path, ci_script) -> None:
    check = ci_script("check_tree").foreign_includes
    for name, text in {
        "cpu/good.cpp": "#include <vector>\n// #include <torch/extension.h>\n",
        "bindings/module.cpp": "#include <pybind11/pybind11.h>\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert check(tmp_path) == []
    (tmp_path / "cpu/bad.h").write_text("#include <Python.h>\n")
    (tmp_path / "bindings/bad.cpp").write_text("# include <ATen/ATen.h>\n")
    assert [line.partition(": includes ")[2].split(";")[0] for line in check(tmp_path)] == ["ATen/ATen.h", "Python.h"]


def test_marks_left_in_a_page(tmp_path: Path, ci_script) -> None:
    page = tmp_path / "page.md"
    page.write_text("a << b, 1 << 20, <b>x</b>\n")
    check = ci_script("check_tree").unfilled_marks
    assert check([page]) == []
    page.write_text("time: <<" + "someone: the table>>\n")
    assert len(check([page])) == 1


def installed_module() -> Path:
    return next(one for home in natten_core.__path__ for one in Path(home).glob("_C.*.so"))  # two homes if editable


def test_the_compiled_module_passes(ci_script) -> None:
    assert ci_script("check_wheel").module_faults(installed_module().read_bytes(), "PyInit__C") == []


def test_a_module_built_against_torch_does_not(ci_script) -> None:
    library = Path(str(torch.__file__)).parent / "lib" / "libtorch_python.so"
    found = ci_script("check_wheel").module_faults(library.read_bytes(), "PyInit__C")
    assert any("needs libtorch" in line for line in found)
    assert any("search path" in line for line in found)
    assert any("names beside PyInit__C" in line for line in found)


def test_a_wheel_with_faults(tmp_path: Path, ci_script) -> None:
    wheel = tmp_path / "natten_core-0.3.1-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("natten_core/__init__.py", "")
        archive.writestr("natten_core/py.typed", "")
        archive.writestr("natten_core/tests/test_na.py", "")
    found = "\n".join(ci_script("check_wheel").faults(wheel))
    assert "_C" in found
    assert "licenses/LICENSE" in found
    assert "has natten_core/tests/test_na.py" in found
    with pytest.raises(ValueError, match="neither a wheel nor an sdist"):
        ci_script("check_wheel").faults(shutil.copy(wheel, tmp_path / "other-1.0-py3-none-any.whl"))


PTXAS = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5firstv' for 'sm_90'
ptxas info    : Function properties for _Z5firstv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 1024 bytes smem
ptxas info    : Compile time = 1.0 ms
ptxas info    : Compiling entry function '_Z6secondv' for 'sm_90'
ptxas info    : Function properties for _Z6secondv
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
"""


def test_resources_of_cuda_kernels(ci_script) -> None:
    first, second = ci_script("cuda_resources").parse(PTXAS, "one.cu")
    assert (first.name, first.registers, first.spilled, first.shared, first.threads) == ("_Z5firstv", 128, 0, 1024, 512)
    assert (second.name, second.registers, second.spilled, second.stack) == ("_Z6secondv", 255, 20, 16)


def test_spills_that_are_allowed(ci_script) -> None:
    resources = ci_script("cuda_resources")
    assert resources.allowed("simt::reduce_kernel<float>", "sm_90") == 0
    assert resources.allowed("band::forward_kernel<bf16, 7, 32>", "sm_90") > 0
    assert resources.allowed("band::forward_kernel<bf16, 7, 32>", "sm_86") == 0
    assert resources.allowed("band::forward_kernel<bf16, 7, 32>::other", "sm_90") == 0
    for _, limits, reason in resources.ALLOWED:
        assert reason
        assert all(spilled > 0 and str(arch) in resources.WHEEL for arch, spilled in limits.items())


def test_spills_in_what_a_build_has_said(ci_script, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "build.txt"
    log.write_text(PTXAS)
    assert ci_script("cuda_resources").main(["--log", str(log)]) == 1
    said = capsys.readouterr().out
    assert "2 kernels, at most 255 registers, 1 spill" in said
    assert "spills 20 bytes, 0 allowed: sm_90 second" in said
    assert "no kernels for" not in said


def test_architectures_that_a_build_has_left_out(ci_script, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "build.txt"
    log.write_text(PTXAS.split("ptxas info    : Compiling entry function '_Z6secondv'")[0])
    assert ci_script("cuda_resources").main(["--log", str(log), "--arch", "90"]) == 0
    assert ci_script("cuda_resources").main(["--log", str(log), "--arch", "80", "90"]) == 1
    assert f"no kernels for sm_80 in {log}" in capsys.readouterr().out


def test_the_page_of_the_models_is_up_to_date(ci_script) -> None:
    script = ci_script("model_table")
    assert script.page() == script.PAGE.read_text(), "run `python ci/model_table.py --write`"


def test_results_of_timms_tests_are_recorded(ci_script, tmp_path: Path) -> None:
    suite = ci_script("timm_suite")
    table = tmp_path / "timm-tests.csv"
    table.write_text("model,timm,passed,failed\nother,1.0,9,0\nnat_s_tiny,1.0,1,1\n")
    suite._chosen[:] = ["nat_s_tiny", "s_tiny"]
    for outcome, when in (("passed", "setup"), ("passed", "call"), ("failed", "call"), ("passed", "teardown")):
        report = SimpleNamespace(nodeid="test[1-nat_s_tiny]", when=when, outcome=outcome)
        report.passed, report.failed = outcome == "passed", outcome == "failed"
        suite.pytest_runtest_logreport(report)
    suite.pytest_sessionfinish(SimpleNamespace(config=SimpleNamespace(getoption=lambda name: table)))
    lines = ["model,timm,passed,failed", f"nat_s_tiny,{timm.__version__},1,1", "other,1.0,9,0"]
    assert table.read_text().splitlines() == lines
