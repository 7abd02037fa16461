"""The two-stage form of the family "simt", run by the emulator, against gathered keys and values."""

from __future__ import annotations

import itertools
import math
from typing import Any

import cuda_builder
import cuda_harness
import natten_oracle
import pytest
import torch
from cuda_cases import LAYOUTS
from natten_cases import CASES, Case, check_error
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MORE = [
    Case("long-rows", (7, 8), (3, 3), head_dim=264, head_dim_v=300, additional=3, batch=1),
    Case("two-lengths", (6, 9), (2, 3), stride=(2, 1), heads=4, heads_kv=2, head_dim=64, head_dim_v=128, additional=5),
    Case("large-table", (15, 17), (13, 13), head_dim=32, batch=1),  # which is not kept in shared memory
    Case("3d-large", (6, 6, 7), (5, 5, 5), head_dim=16, batch=1, heads=1),
    # Windows with slots to fill, by several lanes to a row.
    Case("causal-lanes", (7, 9), (3, 4), is_causal=(False, True), head_dim=32, batch=1),
]
RUNS = [(case, DTYPES[i % 4], "contiguous") for i, case in enumerate([*CASES, *MORE])]
RUNS += [(case, DTYPES[i // 3 % 4], ("odd", "heads-first")[i % 2]) for i, case in enumerate(CASES) if i % 3 == 0]


class Oracle:
    """Keys and entries of the bias table for every query and slot of a window."""

    def __init__(self, case: Case) -> None:
        self.case, settings = case, case.settings
        shape = (math.prod(case.spatial), math.prod(case.kernel_size))
        self.key, self.entry = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        self.there = torch.zeros(shape, dtype=torch.bool)
        number = {token: i for i, token in enumerate(itertools.product(*map(range, case.spatial)))}
        axes = ("kernel_size", "dilation", "stride", "is_causal")
        for token, i in number.items():
            each = zip(token, case.spatial, *(settings[name] for name in axes), strict=True)
            windows = [natten_oracle.window(*axis) for axis in each]
            for slot, place in enumerate(itertools.product(*map(range, case.kernel_size))):
                if any(p >= len(window) for p, window in zip(place, windows, strict=True)):
                    continue
                other = tuple(window[p] for p, window in zip(place, windows, strict=True))
                entry = 0
                for a, b, kernel, spread in zip(token, other, case.kernel_size, settings["dilation"], strict=True):
                    entry = entry * (2 * kernel - 1) + b // spread - a // spread + kernel - 1
                self.key[i, slot], self.entry[i, slot], self.there[i, slot] = number[other], entry, True
        extra = torch.ones(shape[0], case.additional or 0, dtype=torch.bool)
        self.full = torch.cat([self.there, extra], 1)[:, None]  # [tokens, 1, slots]

    def rows(self, rows: Tensor, extra: Tensor | None) -> Tensor:
        """[batch, tokens, heads, slots, dim]"""
        repeat = self.case.heads // rows.shape[-2]
        found = rows.flatten(1, -3).repeat_interleave(repeat, 2)[:, self.key].transpose(2, 3)
        if extra is None:
            return found
        more = extra.repeat_interleave(repeat, 2).transpose(1, 2)[:, None].expand(-1, found.shape[1], -1, -1, -1)
        return torch.cat([found, more], 3)

    def results(self, t: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
        t = {name: tensor.clone().requires_grad_() for name, tensor in t.items()}
        scores = scale * torch.einsum(
            "bthd,bthsd->bths", t["query"].flatten(1, -3), self.rows(t["key"], t.get("additional_key"))
        )
        if "rpb" in t:
            bias = t["rpb"].flatten(1)[:, self.entry].transpose(0, 1)
            scores = scores + torch.nn.functional.pad(bias, (0, scores.shape[-1] - bias.shape[-1]))
        weights = t["weights"].flatten(1, -3).masked_fill(~self.full, 0)
        output = torch.einsum("bths,bthsd->bthd", weights, self.rows(t["value"], t.get("additional_value")))
        names = [name for name in ("query", "key", "rpb", "additional_key") if name in t]
        grad = t["grad_scores"].flatten(1, -3).masked_fill(~self.full, 0)
        grads = dict(zip(names, torch.autograd.grad(scores, [t[n] for n in names], grad), strict=True))
        names = [name for name in ("weights", "value", "additional_value") if name in t]
        grad = t["grad_output"].flatten(1, -3)
        grads |= zip(names, torch.autograd.grad(output, [t[n] for n in names], grad), strict=True)
        scores = scores.masked_fill(~self.full, -math.inf)
        found = {"scores": scores.unflatten(1, self.case.spatial), "output": output.unflatten(1, self.case.spatial)}
        return {**{n: x.detach() for n, x in found.items()}, **{f"grad_{name}": g for name, g in grads.items()}}


OPS = {
    "qk": (("query", "key", "rpb", "additional_key"), ("scores",)),
    "qk_backward": (
        ("query", "key", "additional_key", "grad_scores"),
        ("grad_query", "grad_key", "grad_rpb", "grad_additional_key"),
    ),
    "av": (("weights", "value", "additional_value"), ("output",)),
    "av_backward": (
        ("weights", "value", "additional_value", "grad_output"),
        ("grad_weights", "grad_value", "grad_additional_value"),
    ),
}


@pytest.mark.parametrize(
    ("case", "dtype", "layout"), RUNS, ids=[f"{c.name}-{t}-{n}".replace("torch.", "") for c, t, n in RUNS]
)
def test_two_stage(case: Case, dtype: torch.dtype, layout: str) -> None:
    check_two_stage(cuda_builder.two_stage_module(), case, dtype, layout)


def check_two_stage(module: Any, case: Case, dtype: torch.dtype, layout: str) -> None:
    """Runs all four operators, and holds their results against the oracle's."""
    made = case.tensors(dtype, requires_grad=False)
    names = {"additional_keys": "additional_key", "additional_values": "additional_value"}
    given = {names.get(name, name): tensor for name, tensor in made.items() if tensor.numel()}
    generator = torch.Generator().manual_seed(5)
    rows, slots = given["query"].shape[:-1], math.prod(case.kernel_size) + (case.additional or 0)
    for name, size in (("weights", slots), ("grad_scores", slots), ("grad_output", given["value"].shape[-1])):
        given[name] = torch.randn(*rows, size, generator=generator, dtype=torch.float64).to(dtype)
    scale = 1.0 if case.scale is None else case.scale
    oracle = Oracle(case)
    exact = oracle.results({name: tensor.double() for name, tensor in given.items()}, scale)
    same = oracle.results(given, scale)

    sums = torch.float64 if dtype is torch.float64 else torch.float32
    found = LAYOUTS[layout]({name: torch.empty_like(tensor) for name, tensor in same.items() if name != "grad_rpb"})
    given = LAYOUTS[layout](given)
    if "rpb" in given:
        given["rpb"] = given["rpb"].to(sums).contiguous()
        found["grad_rpb"], same["grad_rpb"] = torch.empty_like(given["rpb"]), same["grad_rpb"].to(sums)
    problem = {
        **cuda_harness._problem(
            *(given[name] for name in ("query", "key", "value")),
            *(case.settings[name] for name in ("kernel_size", "dilation", "stride", "is_causal")),
            scale,
            given.get("additional_key"),
        )
    }
    for op, (reads, writes) in OPS.items():
        inputs = {name: given[name] for name in reads if name in given}
        outputs = {name: found[name].fill_(math.nan) for name in writes if name in found}
        views = {n: cuda_harness._view(n, tensor, case.rank) for n, tensor in {**inputs, **outputs}.items()}
        buffers = [cuda_harness._buffer(tensor, cuda_harness._READ) for tensor in inputs.values()]
        buffers += [cuda_harness._buffer(tensor, cuda_harness._WRITE) for tensor in outputs.values()]
        assert module.run(op, problem, views, buffers, 3) == []
    for name, tensor in found.items():
        absent = exact[name].isinf()
        assert torch.equal(tensor.isinf(), absent), name
        check_error(name, *(t.masked_fill(absent, 0) for t in (tensor, same[name], exact[name])))
