"""Which backend runs, what is said about it, and what the package tells about itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from natten_cases import CASES, Case

import natten_core
from natten_core import NattenFallbackWarning, _loader, _select, explain, na2d
from natten_core.backends import cpu

X = torch.randn(1, 8, 9, 4, 6)


@pytest.fixture
def _no_warning_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_select, "_warned", set())
    _select._choose_and_warn_once.cache_clear()
    yield
    _select._choose_and_warn_once.cache_clear()


@pytest.fixture
def _no_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that lack something, which ours do not."""
    lacks = ("no strides today",)
    monkeypatch.setattr(cpu, "not_supported_reasons", lambda problem: () if set(problem.stride) == {1} else lacks)


def fallback_warnings(function: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [str(w.message) for w in caught if issubclass(w.category, NattenFallbackWarning)]


class TestWithKernels:
    pytestmark = pytest.mark.usefixtures("kernels")

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_the_fastest_kernels_that_can(self, case: Case) -> None:
        explanation = explain(**case.tensors(torch.float32, requires_grad=False), **case.settings)
        assert explanation.backend == "cpu"
        assert [name for name, _ in explanation.rejected] == ["cuda", "reference"]
        assert explanation.kernel.startswith("fused")
        assert explanation.passed_over == ()

    @pytest.mark.usefixtures("_no_warning_yet", "_no_strides")
    def test_falling_back_warns_once_per_reason(self) -> None:
        (message,) = fallback_warnings(lambda: na2d(X, X, X, 3, stride=2))
        assert message.endswith("the cpu kernels cannot run this: no strides today")
        assert not fallback_warnings(lambda: na2d(X, X, X, 3, stride=2, dilation=2))  # another problem, the same reason
        assert explain(X, X, X, 3, stride=2).rejected[1] == ("cpu", ("no strides today",))
        with pytest.raises(NotImplementedError, match="backend 'cpu' cannot run this: no strides today"):
            na2d(X, X, X, 3, stride=2, backend="cpu")

    @pytest.mark.usefixtures("_no_warning_yet", "_no_strides")
    def test_the_warning_points_at_the_call(self) -> None:
        with pytest.warns(NattenFallbackWarning) as caught:
            na2d(X, X, X, 3, stride=2)
        assert caught[0].filename == __file__

    @pytest.mark.usefixtures("_no_warning_yet", "_no_strides")
    def test_what_was_asked_for_is_no_fallback(self) -> None:
        assert not fallback_warnings(lambda: na2d(X, X, X, 3, stride=2, backend="reference"))
        assert not fallback_warnings(lambda: na2d(X, X, X, 3))
        assert not fallback_warnings(lambda: explain(X, X, X, 3, stride=2))

    @pytest.mark.usefixtures("_no_warning_yet")
    def test_a_transform_warns_once_too(self) -> None:
        def gradient() -> Any:
            return torch.func.grad(lambda q: na2d(q, X, X, 3).sum())(X)

        (message,) = fallback_warnings(gradient)
        assert "torch.func transforms other than vmap" in message
        assert not fallback_warnings(gradient)
        assert not fallback_warnings(lambda: torch.vmap(lambda q: na2d(q, X, X, 3))(X[None]))

    @pytest.mark.usefixtures("_no_warning_yet", "_no_strides")
    def test_a_compiled_call_warns_as_well(self) -> None:
        torch._dynamo.reset()
        graph = torch.compile(lambda x: na2d(x, x, x, 3, stride=3), fullgraph=True, backend="eager")
        (message,) = fallback_warnings(lambda: graph(X))
        assert "no strides today" in message

    @pytest.mark.kernels
    def test_kernel_is_named_after_its_instruction_set(self) -> None:
        info = natten_core.build_info()
        assert explain(X, X, X, 3).kernel == f"fused-{info['isa_active']}"
        assert str(explain(X, X, X, 3)).startswith(f"cpu (fused-{info['isa_active']})")
        wanted = os.environ.get("NATTEN_CORE_ISA")
        assert info["isa_active"] == (wanted or info["isa_present"][-1])

    def test_build_info_of_a_build(self) -> None:
        info = natten_core.build_info()
        assert info["missing"] is None
        assert "generic" in info["isa_built"]
        assert set(info["isa_present"]) <= set(info["isa_built"])
        assert info["compiler"]

    def test_an_unknown_instruction_set_is_told(self) -> None:
        code = "import natten_core, torch; x = torch.ones(1, 5, 5, 1, 4); natten_core.na2d(x, x, x, 3, backend='cpu')"
        result = run(code, NATTEN_CORE_ISA="mmx")
        assert result.returncode
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("NotImplementedError")
        assert "NATTEN_CORE_ISA=mmx" in last
        assert re.search("it can be one of (amx, |amx_emulated, )?generic", last)

    def test_amx_is_asked_for_by_name_and_what_it_lacks_is_told(self) -> None:
        info = natten_core.build_info()
        if "amx" not in info["isa_built"]:
            pytest.skip("a build without AMX")
        assert info["isa_present"][-1] != "amx"
        code = (
            "import natten_core as n, torch; x = torch.ones(1, 5, 5, 1, 4).bfloat16()\n"
            "n.na2d(x, x, x, 3, backend='cpu'); print(n.build_info()['isa_active'])"
        )
        result = run(code, NATTEN_CORE_ISA="amx")
        if "amx" in info["isa_present"]:
            assert result.stdout.split() == ["amx"]
        else:
            last = result.stderr.strip().splitlines()[-1]
            assert re.search("NATTEN_CORE_ISA=amx: this machine has no amx: .* (AMX|AVX-512)", last)

    def test_one_openmp_runtime_in_the_process(self) -> None:
        code = (
            "import natten_core, torch; x = torch.ones(1, 9, 9, 1, 4); natten_core.na2d(x, x, x, 3, backend='cpu')\n"
            "paths = {line.split()[-1] for line in open('/proc/self/maps') if 'libgomp' in line or 'libomp' in line}\n"
            "print(len(paths))"
        )
        assert run(code).stdout.split() == ["1"]

    def test_a_forked_child_computes_alone(self) -> None:
        """libgomp's threads do not survive a fork, and waiting for them would hang."""
        code = (
            "import natten_core, os, torch\n"
            "torch.set_num_threads(2)\n"
            "x = torch.randn(4, 32, 32, 2, 16)\n"
            "def attend(): return natten_core.na2d(x, x, x, 5, backend='cpu')\n"
            "here = attend()\n"
            "child = os.fork()\n"
            "if not child:\n"
            "    there = attend()\n"
            "    torch.set_num_threads(1)  # for torch's own operations, which hang otherwise\n"
            "    os._exit(0 if torch.equal(there, here) else 1)\n"
            "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
        )
        assert run(code).stdout.split() == ["0"]


@pytest.mark.usefixtures("_no_warning_yet")
def test_without_kernels_everything_runs_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loader, "_C", None)
    monkeypatch.setattr(_loader, "reason", "the kernels are away")
    explanation = explain(X, X, X, 3)
    assert explanation.backend == "reference"
    assert explanation.rejected == (("cuda", ("the tensors are on 'cpu'",)), ("cpu", ("the kernels are away",)))
    (message,) = fallback_warnings(lambda: na2d(X, X, X, 3))
    assert message.endswith("the kernels are away")
    assert "far slower" in message
    assert not fallback_warnings(lambda: na2d(X, X, X, 5))
    with pytest.raises(NotImplementedError, match="the kernels are away"):
        na2d(X, X, X, 3, backend="cpu")
    info = natten_core.build_info()
    assert info["isa_built"] == []
    assert info["isa_active"] is None
    assert info["missing"] == "the kernels are away"


@pytest.mark.usefixtures("_no_warning_yet")
def test_other_devices_take_the_reference_without_a_warning() -> None:
    x = X.to("meta")
    explanation = explain(x, x, x, 3)
    assert explanation.backend == "reference"
    assert explanation.rejected == tuple((name, ("the tensors are on 'meta'",)) for name in ("cuda", "cpu"))
    assert not fallback_warnings(lambda: na2d(x, x, x, 3, stride=2))
    assert na2d(x, x, x, 3, stride=2).shape == x.shape


def test_explain_takes_what_the_call_takes_and_fails_as_it_does() -> None:
    with pytest.raises(ValueError, match="largest dilation that fits is 2"):
        explain(X, X, X, 3, dilation=3)
    with pytest.raises(NotImplementedError, match="the tensors are on 'cpu'"):
        explain(X, X, X, 3, backend="cuda")
    asked = explain(X, X, X, 3, backend="reference")
    assert asked.backend == "reference"
    assert asked.kernel == "torch-tiled"
    with pytest.raises(AttributeError):
        asked.backend = "cpu"  # type: ignore[misc]


def test_build_info_is_json() -> None:
    info = natten_core.build_info()
    assert json.loads(json.dumps(info)) == info
    assert set(info) == {
        "version",
        "isa_built",
        "isa_present",
        "isa_active",
        "cuda_architectures",
        "cuda_toolkit",
        "compiler",
        "openmp",
        "missing",
    }
    assert info["version"] == natten_core.__version__


def test_diagnostics_command() -> None:
    result = subprocess.run([sys.executable, "-m", "natten_core"], capture_output=True, text=True, check=True)
    facts = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    assert facts["natten_core version"] == natten_core.__version__
    assert facts["torch"] == torch.__version__
    assert facts["natten_core isa_active"] == (natten_core.build_info()["isa_active"] or "none")
    assert "natten_core cuda_architectures" in facts
    assert not result.stderr


def test_import_is_lean() -> None:
    code = (
        "import torch, sys; before = set(sys.modules); import natten_core\n"
        "heavy = ('torch._dynamo', 'torch._inductor', 'numpy', 'timm', 'sympy', 'torch.utils.flop_counter')\n"
        "print([name for name in heavy if name in sys.modules and name not in before], torch.cuda.is_initialized())"
    )
    assert run(code).stdout.strip() == "[] False"


def test_every_public_name_is_there() -> None:
    assert sorted(natten_core.__all__) == natten_core.__all__
    for name in natten_core.__all__:
        assert getattr(natten_core, name) is not None


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )
