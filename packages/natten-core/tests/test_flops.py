"""What counters of floating point operations make of our operators."""

from __future__ import annotations

import importlib.util
import sys
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from natten_cases import CASES, Case
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import natten_core
from natten_core import flops, neighborhood_attention
from natten_core._when_imported import when_imported

pytestmark = pytest.mark.usefixtures("kernels")

QK: dict[int, Any] = {1: natten_core.na1d_qk, 2: natten_core.na2d_qk, 3: natten_core.na3d_qk}
AV: dict[int, Any] = {1: natten_core.na1d_av, 2: natten_core.na2d_av, 3: natten_core.na3d_av}


def counted(function: Any) -> dict[str, int]:
    with FlopCounterMode(display=False) as mode:
        function()
    return {str(packet).removeprefix("natten_core."): n for packet, n in mode.get_flop_counts()["Global"].items()}


def products(case: Case) -> tuple[int, int]:
    """Operations of query with key and of weights with value, two for every multiply-accumulate."""
    pairs = case.batch * prod(case.spatial) * case.heads * (prod(case.kernel_size) + (case.additional or 0))
    return 2 * pairs * case.head_dim, 2 * pairs * (case.head_dim_v or case.head_dim)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_forward_and_backward(case: Case) -> None:
    tensors = case.tensors(torch.float32)
    found = counted(lambda: neighborhood_attention(**tensors, **case.settings).sum().backward())
    assert found == {"na_forward": sum(products(case)), "na_backward": 2 * sum(products(case))}


@pytest.mark.parametrize("case", CASES[::5], ids=lambda case: case.name)
def test_two_stages(case: Case) -> None:
    tensors = case.tensors(torch.float32)
    settings = {name: value for name, value in case.settings.items() if name != "scale"}
    first = {name: tensors[name] for name in ("query", "key", "rpb", "additional_keys") if name in tensors}
    second = {name: tensors[name] for name in ("value", "additional_values") if name in tensors}

    def run() -> None:
        AV[case.rank](QK[case.rank](**first, **settings).softmax(-1), **second, **settings).sum().backward()

    qk, av = products(case)
    assert counted(run) == {"qk": qk, "av": av, "av_backward": 2 * av, "qk_backward": 2 * qk}


def test_packed_and_dense_attention_agree_where_the_window_is_the_map() -> None:
    qkv = torch.randn(2, 5, 6, 3, 2, 8, requires_grad=True)
    q, k, v = (t.flatten(1, 2).transpose(1, 2) for t in qkv.detach().unbind(-3))
    ours = counted(lambda: natten_core.na2d_qkvpacked(qkv, (5, 6)).sum().backward())
    dense = counted(lambda: (q @ k.transpose(-1, -2)).softmax(-1) @ v)
    assert ours == {
        "na_qkvpacked_forward": sum(dense.values()),
        "na_qkvpacked_backward": 2 * sum(dense.values()),
    }


def test_modules_are_named() -> None:
    model = torch.nn.Sequential(natten_core.NeighborhoodAttention2D(16, 2, 3))
    with FlopCounterMode(display=False) as mode:
        model(torch.randn(1, 6, 7, 16))
    assert mode.get_flop_counts()["Sequential.0"][torch.ops.natten_core.na_qkvpacked_forward] == 2 * 42 * 9 * 32


def test_what_waits_for_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the formulas do; torch's counter is slow to import."""
    (tmp_path / "natten_late.py").write_text("there = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[str] = []
    finders = list(sys.meta_path)

    def act(module: ModuleType) -> None:
        assert module.there  # it has run
        seen.append(module.__name__)

    when_imported("natten_late", act)
    assert importlib.util.find_spec("natten_late") is not None  # which imports nothing
    assert not seen
    late = importlib.import_module("natten_late")
    assert sys.modules["natten_late"] is late
    assert seen == ["natten_late"]
    assert sys.meta_path == finders
    when_imported("natten_late", act)  # there already
    assert seen == ["natten_late"] * 2
    del sys.modules["natten_late"]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated.:FutureWarning")
@pytest.mark.parametrize("bias", [False, True])
def test_fvcore(bias: bool) -> None:
    fvcore = pytest.importorskip("fvcore.nn")
    case = Case("fvcore", (6, 7), (3, 5), batch=1, heads=4, heads_kv=2, head_dim_v=3, additional=2, bias=bias)
    tensors = case.tensors(torch.float32, requires_grad=False)
    rpb = tensors.get("rpb")
    query, key, value, *more = (t for name, t in tensors.items() if name != "rpb")

    class Both(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Any:
            scores = natten_core.na2d_qk(q, k, (3, 5), rpb=rpb, additional_keys=more[0])
            output = natten_core.na2d_av(scores, v, (3, 5), additional_values=more[1])
            whole = natten_core.na2d(q, k, v, (3, 5), rpb=rpb, additional_keys=more[0], additional_values=more[1])
            return output, whole

    analysis = fvcore.FlopCountAnalysis(Both(), (query, key, value)).set_op_handle(**flops.fvcore_handles())
    analysis.unsupported_ops_warnings(False)
    queries = 6 * 7 * 4
    scores, weighted_sum = queries * (17 * 8 + 15 * bias), queries * 17 * 3
    assert dict(analysis.by_operator()) == {"scores": 2 * scores, "weighted_sum": 2 * weighted_sum}
    assert not [name for name in analysis.unsupported_ops() if name.startswith("natten_core")]
