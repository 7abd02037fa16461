"""Random problems on every backend, held against attention written out.

`NATTEN_CORE_RANDOM_PROBLEMS=10000 pytest test_random.py` makes that many in each test, other ones every time.
"""

from __future__ import annotations

import functools
import math
import os
import zlib
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from natten_cases import Case, check_error
from natten_compare import HALVES, results, strided_versions
from natten_slots import (
    FIRST,
    SECOND,
    attention_written_out,
    part,
    scores_written_out,
    values_written_out,
    windowed,
)
from torch import Tensor

import natten_core
from natten_core import neighborhood_attention

PROBLEMS = int(os.environ.get("NATTEN_CORE_RANDOM_PROBLEMS", "60"))
LONG_RUN = "NATTEN_CORE_RANDOM_PROBLEMS" in os.environ
settings.register_profile(
    "random-problems",
    max_examples=PROBLEMS,
    derandomize=not LONG_RUN,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
random_problems = settings(settings.get_profile("random-problems"))
pytestmark = pytest.mark.timeout(600 + PROBLEMS)

PACKED: dict[int, Any] = {1: natten_core.na1d_qkvpacked, 2: natten_core.na2d_qkvpacked, 3: natten_core.na3d_qkvpacked}
QK: dict[int, Any] = {1: natten_core.na1d_qk, 2: natten_core.na2d_qk, 3: natten_core.na3d_qk}
AV: dict[int, Any] = {1: natten_core.na1d_av, 2: natten_core.na2d_av, 3: natten_core.na3d_av}
LAYOUTS = ("contiguous", "heads-first", "transposed-map", "padded-rows", "every-other-sample", "batch-last")
LONGEST = {1: 90, 2: 22, 3: 8}
WIDEST = {1: 20, 2: 7, 3: 4}
DRAWS = 8  # of plain torch, where the first was not enough
DOUBLE_LEAST = 64.0  # sums of many terms that may cancel; scores, whose roundings the exponential multiplies


class Run(NamedTuple):
    """A problem, and how its tensors are held."""

    case: Case
    dtype: torch.dtype
    layout: str


@st.composite
def runs(draw: Any, plain: bool) -> Run:
    rank = draw(st.integers(1, 3))
    axes = []
    for _ in range(rank):
        kernel = draw(st.integers(1, WIDEST[rank]))
        dilation = draw(st.integers(1, min(5, LONGEST[rank] // kernel)))
        length = draw(st.integers(kernel * dilation, LONGEST[rank]))
        stride = 1 if plain else draw(st.integers(1, kernel))
        axes.append((length, kernel, dilation, stride, not plain and draw(st.booleans())))
    lengths, kernels, dilations, strides, causal = map(tuple, zip(*axes, strict=True))
    heads_kv, head_dim = draw(st.integers(1, 3)), draw(st.integers(1, 20) | st.sampled_from([32, 33, 64, 67, 150]))
    alike = plain and draw(st.booleans())  # so that one projection could hold them
    scale = draw(st.none() | st.floats(-2, 2).map(lambda factor: factor * head_dim**-0.5))
    case = Case(
        name=f"random-{draw(st.integers(0, 1 << 20))}",
        spatial=lengths,
        kernel_size=kernels,
        dilation=dilations,
        stride=None if plain else strides,
        is_causal=None if plain else causal,
        batch=draw(st.integers(1, 2)),
        heads=heads_kv * (1 if alike else draw(st.integers(1, 3))),
        heads_kv=heads_kv,
        head_dim=head_dim,
        head_dim_v=None if alike else draw(st.integers(1, 20) | st.sampled_from([35, 70])),
        additional=draw(st.none() | st.integers(0, 4) | st.just(18)),
        bias=draw(st.booleans()),
        scale=scale,
    )
    layouts = (*LAYOUTS, "packed") if alike else LAYOUTS
    return Run(case, draw(st.sampled_from([torch.float32, torch.float64, *HALVES])), draw(st.sampled_from(layouts)))


def laid_out(tensors: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    """The tensors as leaves of another layout; bias and additional tokens stay as they are."""
    held = {}
    for name, tensor in tensors.items():
        found = tensor.detach()
        if layout in LAYOUTS[1:] and name in ("query", "key", "value", "attn"):
            found = strided_versions(found)[layout]
        held[name] = found.requires_grad_()
    return held


def hold(run: Run, tensors: dict[str, Tensor], function: Any, written_out: Any) -> None:
    """Holds results and all gradients of `function` within the error budget."""

    def finite(outputs: Any) -> tuple[Tensor, ...]:
        """Without the scores that a causal window lacks, which are held for themselves."""
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return tuple(torch.where(part == -math.inf, 0.0, part) for part in outputs)

    exact = {name: t.double().requires_grad_() for name, t in tensors.items()}
    wanted = written_out(exact)
    grads = tuple(torch.randn(part.shape, dtype=torch.float64).to(run.dtype).double() for part in finite(wanted))
    seen = torch.isfinite(wanted[0] if isinstance(wanted, tuple) else wanted)
    ours = laid_out(tensors, run.layout)
    found = function(ours)
    assert torch.equal(torch.isfinite(found[0] if isinstance(found, tuple) else found), seen)

    def same(draw: int) -> dict[str, Tensor]:
        """The results of plain torch in the dtype; of every draw but the first with its sums in another order."""
        given = {name: t.detach().clone().requires_grad_() for name, t in tensors.items()}
        made = results(lambda t: finite(reordered(run.case, written_out, t, draw)), given, grads)
        if "lse" in made and run.dtype in HALVES:
            made["lse"] = made["lse"].float()  # ours is float32 by contract
        return made

    exact_results = results(lambda _: finite(wanted), exact, grads)
    our_results = results(lambda _: finite(found), ours, grads)
    draws = [same(0)]
    for name, result in our_results.items():
        try:
            check_error(f"{name} of {run}", result, draws[0][name], exact_results[name], DOUBLE_LEAST)
        except AssertionError:
            # How plain torch's roundings fall is chance, too: its error is the largest of several equivalent sums, and
            # where these cancel, the terms tell how large a rounding is.
            draws += [same(draw) for draw in range(len(draws), DRAWS)]
            worst = max((draw[name] for draw in draws), key=lambda one: float((one - exact_results[name]).abs().max()))
            terms = float(unsigned(run.case, finite, written_out, exact, grads)[name].abs().max())
            check_error(f"{name} of {run}", result, worst, exact_results[name], DOUBLE_LEAST, terms)


def unsigned(
    case: Case, finite: Any, written_out: Any, tensors: dict[str, Tensor], grads: tuple[Tensor, ...]
) -> dict[str, Tensor]:
    """The results where nothing cancels, as all that is summed has one sign."""
    absolute = {name: t.detach().abs() for name, t in tensors.items()}
    if "query" in absolute and case.scale is not None and case.scale < 0:
        absolute["query"] *= -1
    leaves = {name: t.requires_grad_() for name, t in absolute.items()}
    return results(lambda t: finite(written_out(t)), leaves, tuple(grad.abs() for grad in grads))


def reordered(case: Case, written_out: Any, tensors: dict[str, Tensor], draw: int) -> Any:
    """What is written out, after moving head_dims and slots about: the same sums in other orders, but for draw 0."""
    if draw == 0:
        return written_out(tensors)
    generator = torch.Generator().manual_seed(draw)
    orders: dict[str, Tensor] = {}
    for first, names in (("query", ("query", "key", "additional_keys")), ("value", ("value", "additional_values"))):
        if first in tensors:
            order = torch.randperm(tensors[first].shape[-1], generator=generator)
            orders |= dict.fromkeys(names, order)
    if "query" in tensors and "value" in tensors:  # what is summed over slots is no result by slots
        order = torch.randperm(math.prod(case.kernel_size), generator=generator)
        written_out = functools.partial(written_out, order=order)
    outputs = written_out({name: t[..., orders[name]] if name in orders else t for name, t in tensors.items()})
    if "value" not in tensors:
        return outputs
    back = orders["value"].argsort()
    return (outputs[0][..., back], *outputs[1:]) if isinstance(outputs, tuple) else outputs[..., back]


def seed(run: Run) -> None:
    """What is drawn besides the case's tensors follows from the case, so that a failure comes again."""
    torch.manual_seed(zlib.crc32(run.case.name.encode()))


def hold_attention(run: Run, backend: str) -> None:
    case = run.case
    seed(run)

    def attend(tensors: dict[str, Tensor]) -> Any:
        if run.layout != "packed":
            return neighborhood_attention(**tensors, **case.settings, return_lse=True, backend=backend)
        qkv = torch.stack([tensors[name] for name in ("query", "key", "value")], -3)
        rest = {name: t for name, t in tensors.items() if name not in ("query", "key", "value")}
        return PACKED[case.rank](qkv, **rest, **case.settings, return_lse=True, backend=backend)

    hold(run, case.tensors(run.dtype), attend, functools.partial(attention_written_out, case))


def hold_two_stage(run: Run, backend: str) -> None:
    case, window = run.case, windowed(run.case)
    seed(run)
    scale = 1.0 if case.scale is None else case.scale
    tensors = case.tensors(run.dtype)
    hold(
        run,
        part(tensors, FIRST),
        lambda t: QK[case.rank](**t, **window, scale=scale, backend=backend),
        lambda t: scores_written_out(case, t, scale),
    )
    slots = math.prod(case.kernel_size) + (case.additional or 0)
    attn = torch.randn(case.batch, *case.spatial, case.heads, slots).to(run.dtype)
    hold(
        run,
        {"attn": attn, **part(tensors, SECOND)},
        lambda t: AV[case.rank](**t, **window, backend=backend),
        lambda t: values_written_out(case, t["attn"], t),
    )


@random_problems
@given(run=runs(plain=False))
def test_reference(run: Run) -> None:
    hold_attention(run, "reference")


@random_problems
@given(run=runs(plain=False))
def test_two_stage_reference(run: Run) -> None:
    hold_two_stage(run, "reference")


@pytest.mark.kernels
@pytest.mark.usefixtures("kernels")
@random_problems
@given(run=runs(plain=True))
def test_kernels_of_plain_problems(run: Run) -> None:
    hold_attention(run, "cpu")


@pytest.mark.kernels
@pytest.mark.usefixtures("kernels")
@random_problems
@given(run=runs(plain=False))
def test_kernels(run: Run) -> None:
    hold_attention(run, "cpu")


@pytest.mark.kernels
@pytest.mark.usefixtures("kernels")
@random_problems
@given(run=runs(plain=False))
def test_two_stage_kernels(run: Run) -> None:
    hold_two_stage(run, "cpu")
