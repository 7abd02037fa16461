"""Problems for the families of cuda kernels, layouts for their tensors, and what results are held against."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import natten_tf32
import torch
from cuda_harness import Options, run_backward, run_forward
from natten_cases import CASES, Case, check_error, relative_error
from torch import Tensor

# For the tensor cores; the numbers in comments are what a case is there for.
DENSE = [
    Case("d-7x7", (7, 7), (7, 7), head_dim=32),  # a window that is the map
    Case("d-8x8", (8, 8), (3, 3), head_dim=32),  # 64 tokens
    Case("d-6x8-even", (6, 8), (4, 6), head_dim=32),
    Case("d-5x11", (5, 11), (3, 5), head_dim=32, heads=3, batch=3),
    Case("d-one", (1, 1), (1, 1), head_dim=32),
    Case("d-no-bias", (7, 7), (5, 5), head_dim=32, bias=False),
    Case("d-8", (7, 7), (3, 3), head_dim=8),
    Case("d-24", (7, 7), (3, 3), head_dim=24),
    Case("d-64", (7, 8), (7, 7), head_dim=64),
    Case("d-128", (7, 7), (5, 5), head_dim=128, batch=1),
    Case("d-1d", (50,), (13,), head_dim=32),
    Case("d-1d-dilated", (100,), (7,), dilation=(3,), head_dim=16),
    Case("d-3d", (3, 4, 5), (3, 3, 3), head_dim=32, batch=1),
    Case("d-3d-dilated", (4, 7, 9), (2, 3, 3), dilation=(1, 2, 3), head_dim=32, batch=1, heads=1),
    Case("d-14-dilated", (14, 14), (7, 7), dilation=(2, 2), head_dim=32, batch=1),
    Case("d-dilated-remainder", (11, 13), (3, 3), dilation=(3, 4), head_dim=32, batch=1),
    Case("d-dilated-one-axis", (7, 24), (5, 3), dilation=(1, 4), head_dim=32, batch=1),
    # Enough of them that a block of the backward pass takes several, one after the other.
    Case("d-many-maps", (3, 4), (3, 3), head_dim=8, heads=99, batch=9),
    Case("d-128-many-maps", (2, 3), (1, 3), head_dim=128, heads=88, batch=7),
    Case("d-scale-zero", (7, 7), (3, 3), head_dim=32, scale=0.0),
    Case("d-scale-negative", (7, 7), (3, 3), head_dim=32, scale=-0.7),
    Case("d-scale-large", (7, 7), (7, 7), head_dim=32, scale=3.0),
]
BAND = [
    Case("b-9x10", (9, 10), (5, 5), head_dim=32, batch=2),
    Case("b-14", (14, 14), (7, 7), head_dim=32),
    Case("b-13x17", (13, 17), (7, 7), head_dim=32, batch=1),
    Case("b-28", (28, 28), (7, 7), head_dim=32, batch=1, heads=1),
    Case("b-17x16-3", (17, 16), (3, 3), head_dim=32, batch=1),
    Case("b-14x19-per-axis", (14, 19), (3, 9), head_dim=32, batch=1),
    Case("b-19x14-per-axis", (19, 14), (9, 3), head_dim=32, batch=1),
    Case("b-15x15-even", (15, 15), (4, 6), head_dim=32, batch=1),
    Case("b-13x16-whole-axis", (13, 16), (13, 5), head_dim=32, batch=1, heads=1),
    Case("b-14-13", (14, 15), (13, 13), head_dim=32, batch=1, heads=1),
    Case("b-wide", (9, 75), (7, 7), head_dim=32, batch=1, heads=1),  # more than one strip
    Case("b-tall", (40, 8), (7, 7), head_dim=32, batch=1, heads=1),
    Case("b-no-bias", (13, 11), (7, 7), head_dim=32, bias=False, batch=1),
    Case("b-16", (12, 13), (5, 5), head_dim=16),
    Case("b-64", (12, 13), (7, 7), head_dim=64, batch=1, heads=1),
    Case("b-128", (11, 12), (5, 5), head_dim=128, batch=1, heads=1),
    Case("b-24", (11, 12), (5, 5), head_dim=24, batch=1),
    Case("b-heads", (9, 11), (3, 3), head_dim=32, batch=3, heads=5),
    Case("b-idle-warp", (9, 17), (3, 3), dilation=(1, 2), head_dim=32, batch=1),  # the shorter map needs one less
    Case("b-grouped", (9, 11), (5, 5), head_dim=32, batch=1, heads=4, heads_kv=2),
    Case("b-many-samples", (4, 5), (3, 3), head_dim=32, heads=133, batch=4),  # several to a block
    Case("b-dilated", (22, 22), (7, 7), dilation=(2, 2), head_dim=32, batch=1, heads=1),
    Case("b-dilated-remainder", (31, 29), (7, 7), dilation=(3, 2), head_dim=32, batch=1, heads=1),
    Case("b-dilated-one-axis", (11, 33), (5, 5), dilation=(1, 3), head_dim=32, batch=1, heads=1),
    Case("b-1d", (99,), (7,), head_dim=32),
    Case("b-1d-13", (70,), (13,), head_dim=64, batch=1),
    Case("b-scale-large", (10, 11), (5, 5), head_dim=32, batch=1, scale=3.0),
]
# For fp32 in TF32: as those, and rows of what is not 8 elements, every shape of tile with the larger head_dim.
BAND_TF32 = [
    *(case for case in BAND if case.head_dim <= 32 or case.name == "b-64"),
    Case("b-20", (11, 12), (5, 5), head_dim=20, batch=1),
    Case("b-4", (9, 11), (3, 3), head_dim=4, batch=1),
    Case("b-11", (12, 13), (11, 11), head_dim=32, batch=1, heads=1),
    Case("b-36", (10, 17), (3, 3), head_dim=36, batch=1, heads=1),
    Case("b-48-grouped", (9, 12), (5, 5), head_dim=48, batch=1, heads=2, heads_kv=1),
    Case("b-64-9", (13, 19), (9, 9), head_dim=64, batch=1, heads=1),
]
BOX = [
    Case("x-3d", (4, 7, 19), (3, 3, 3), head_dim=32, batch=1),
    Case("x-3d-7", (5, 9, 18), (3, 7, 7), head_dim=32, batch=1, heads=1),
    Case("x-3d-deep", (9, 5, 9), (7, 3, 3), head_dim=32, batch=1, heads=1),
    Case("x-3d-even", (5, 9, 10), (2, 4, 6), head_dim=32, batch=2, heads=1),
    Case("x-3d-wide", (2, 8, 27), (2, 5, 13), head_dim=32, batch=1, heads=1),
    Case("x-3d-whole", (3, 5, 6), (3, 5, 6), head_dim=32, batch=1),
    Case("x-3d-dilated", (7, 9, 21), (3, 3, 3), dilation=(2, 1, 2), head_dim=32, batch=1),
    Case("x-3d-no-bias", (3, 6, 11), (3, 5, 3), head_dim=32, batch=1, bias=False),
    Case("x-3d-tall", (3, 33, 9), (3, 3, 3), head_dim=32, batch=1, heads=1),  # boxes one under the other
    Case("x-many-planes", (3, 4, 7), (2, 3, 3), head_dim=32, heads=67, batch=9),  # several units to a block
    Case("x-3d-8", (3, 5, 7), (3, 3, 3), head_dim=8, batch=1),
    Case("x-3d-64", (3, 7, 10), (3, 5, 3), head_dim=64, batch=1, heads=1),
    Case("x-3d-128", (3, 5, 12), (2, 3, 11), head_dim=128, batch=1, heads=1),
    Case("x-3d-large", (7, 9, 11), (7, 9, 9), head_dim=64, batch=1, heads=1),  # one stage, not two, on sm_86
    Case("x-3d-grouped", (3, 5, 7), (3, 3, 3), head_dim=32, batch=1, heads=4, heads_kv=2),
    Case("x-3d-scale-large", (3, 6, 9), (3, 3, 3), head_dim=32, batch=1, scale=3.0),  # weights grow late
    Case("x-1d", (131,), (7,), head_dim=32),
    Case("x-1d-13", (99,), (13,), head_dim=64),
    Case("x-1d-dilated", (211,), (5,), dilation=(3,), head_dim=24, batch=1),
    Case("x-2d-rows", (11, 20), (5, 3), head_dim=32, batch=1),
    Case("x-2d-line", (1, 90), (1, 4), head_dim=32, batch=3),
]
# Likewise; with the larger head_dim there are kernels of up to 8 on the last axis.
BOX_TF32 = [
    *(case for case in BOX if case.head_dim <= 32 or case.name == "x-3d-64"),
    Case("x-3d-4", (3, 5, 7), (3, 3, 3), head_dim=4, batch=1),
    Case("x-3d-20", (2, 6, 11), (2, 3, 5), head_dim=20, batch=1),
    Case("x-3d-36-even", (2, 6, 17), (2, 3, 8), head_dim=36, batch=1, heads=1),
    Case("x-3d-48-grouped", (3, 5, 9), (3, 3, 3), head_dim=48, batch=1, heads=2, heads_kv=1),
    Case("x-3d-large-32", (7, 9, 11), (7, 9, 9), head_dim=32, batch=1, heads=1),  # one stage, not two, on sm_86
]
TENSOR_CORES = [*DENSE, *BAND, *BOX]
NAMED = {case.name: case for case in [*CASES, *TENSOR_CORES, *BAND_TF32, *BOX_TF32]}

HALVES = (torch.float16, torch.bfloat16)

# ---- layouts: contiguous tensors in, views with the same values out; what lies between them is not to be touched

GAP = 3e4  # spoils what it gets into


def contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def packed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value in one tensor [B, *spatial, 3, heads, head_dim]."""
    whole = torch.stack([tensors[name] for name in ("query", "key", "value")], -3)
    return {**contiguous(tensors), **dict(zip(("query", "key", "value"), whole.unbind(-3), strict=True))}


def heads_first(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Memory in the order [B, heads, *spatial, head_dim]."""
    return {
        name: tensor if name == "rpb" else tensor.movedim(-2, 1).contiguous().movedim(1, -2)
        for name, tensor in tensors.items()
    }


def spread(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gaps of 16 bytes and more on every axis."""
    return {
        name: tensor if name == "rpb" else _spread(tensor, 16 // tensor.element_size())
        for name, tensor in tensors.items()
    }


def odd(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Nothing aligned to more than an element."""
    return {name: tensor if name == "rpb" else _spread(tensor, 1) for name, tensor in tensors.items()}


LAYOUTS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "contiguous": contiguous,
    "packed": packed,
    "heads-first": heads_first,
    "spread": spread,
    "odd": odd,
}


def _spread(tensor: Tensor, step: int) -> Tensor:
    *outer, last = tensor.shape
    whole = torch.full([*(length + 1 for length in outer), last + step], GAP, dtype=tensor.dtype)
    view = whole[(*(slice(0, length) for length in outer), slice(step if step == 1 else 0, last + (step == 1)))]
    return view.copy_(tensor)


def untouched(view: Tensor) -> bool:
    """Whether all of the view's storage that is not the view still holds what `spread` or `odd` put there."""
    whole = torch.empty(0, dtype=view.dtype).set_(view.untyped_storage())
    fill = whole[-1].clone()
    mask = torch.ones_like(whole, dtype=torch.bool)
    mask.as_strided(view.shape, view.stride(), view.storage_offset())[...] = False
    return bool((whole[mask] == fill).all())


# ---- what is right


@cache
def expected(name: str, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Inputs with gradients of output and lse; exact results for them; what plain torch finds in `dtype`."""
    case = NAMED[name]
    inputs = case.tensors(dtype, requires_grad=False)
    generator = torch.Generator().manual_seed(7)
    shape = (*inputs["query"].shape[:-1], inputs["value"].shape[-1])
    grad_output = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    accumulation = torch.float64 if dtype is torch.float64 else torch.float32
    grad_lse = torch.randn(shape[:-1], generator=generator, dtype=torch.float64).to(accumulation)
    exact = _results(case, {n: t.double() for n, t in inputs.items()}, grad_output.double(), grad_lse.double())
    same = _results(case, inputs, grad_output, grad_lse.to(dtype))
    for n in ("lse", "grad_rpb"):
        if n in same:
            same[n] = same[n].to(accumulation)
    return {**inputs, "grad_output": grad_output, "grad_lse": grad_lse}, exact, same


def _results(case: Case, inputs: dict[str, Tensor], grad_output: Tensor, grad_lse: Tensor) -> dict[str, Tensor]:
    inputs = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    output, lse = case.oracle(inputs)
    grads = torch.autograd.grad((output, lse), tuple(inputs.values()), (grad_output, grad_lse))
    found = {f"grad_{name}": grad for name, grad in zip(inputs, grads, strict=True)}
    return {"output": output.detach(), "lse": lse.detach(), **found}


@cache
def expected_of_tf32(name: str) -> dict[str, Tensor]:
    """What is right for float32 in TF32."""
    return natten_tf32.results(NAMED[name], expected(name, torch.float32)[0])


def run(
    family: str,
    case: Case,
    dtype: torch.dtype,
    layout: str = "contiguous",
    options: Options | None = None,
    *,
    backward: bool = True,
    grad_lse: bool = True,
) -> dict[str, Tensor]:
    """All results of a family on a case."""
    inputs, _, _ = expected(case.name, dtype)
    arrange = LAYOUTS[layout]
    given = arrange({n: t for n, t in inputs.items() if not n.startswith("grad_")})
    other = arrange({n: inputs[n] for n in ("grad_output", "grad_lse")}) if layout != "packed" else inputs
    empty = {"output": torch.empty_like(inputs["grad_output"])}
    output = empty["output"] if layout == "packed" else arrange(empty)["output"]
    settings = {**case.settings, **{n: t for n, t in given.items() if n not in ("query", "key", "value")}}
    main = (given["query"], given["key"], given["value"])
    _, lse = run_forward(family, *main, **settings, options=options, output=output)
    found = {"output": output, "lse": lse}
    if backward:
        targets = arrange({n: torch.empty_like(inputs[n]) for n in ("query", "key", "value")})
        grads = run_backward(
            family,
            other["grad_output"],
            output,
            lse,
            *main,
            **settings,
            grad_lse=other["grad_lse"] if grad_lse else None,
            options=options,
            grads=tuple(targets.values()),
        )
        found |= {f"grad_{name}": grad for name, grad in grads._asdict().items() if grad is not None}
    if layout in ("spread", "odd"):
        for name, tensor in found.items():
            assert name in ("lse", "grad_rpb") or "additional" in name or untouched(tensor), f"written around {name}"
    return found


def check(case: Case, dtype: torch.dtype, found: dict[str, Tensor], slack: float = 0.0) -> None:
    """Holds results against the exact ones, with the error that the same computation in plain torch would have.

    `slack`: an error, relative to the largest value, that is forgiven.
    """
    _, exact, same = expected(case.name, dtype)
    for name, tensor in found.items():
        assert torch.isfinite(tensor).all(), f"{name} is not finite everywhere"
        if relative_error(tensor, exact[name]) > slack:
            check_error(name, tensor, same[name], exact[name])
    if dtype in HALVES:  # sums in float32 leave little more than the rounding of factors and results
        for name, tensor in found.items():
            # Gradients have that of the output too, by way of its product with its gradient.
            most = 2 if name.startswith("grad_") else 1.25
            assert relative_error(tensor, exact[name]) < most * torch.finfo(dtype).eps, name
        assert torch.allclose(found["lse"].double(), exact["lse"], rtol=1e-5, atol=1e-5), "lse"


def check_tf32(case: Case, found: dict[str, Tensor]) -> None:
    """Holds results of float32 in TF32 against exact ones with, and without, that rounding."""
    _, exact, _ = expected(case.name, torch.float32)
    natten_tf32.check(case, found, expected_of_tf32(case.name), exact)
    for name, tensor in found.items():
        # Weights, and gradients of scores, are rounded after sums in fp32, which sends a few the other way: a small
        # part of the numbers then errs.
        difference = tensor.double() - expected_of_tf32(case.name)[name]
        most = exact[name].abs().max()
        few = max(2.0**-16, 2.0**-10 * tensor.numel() ** -0.5)
        assert difference.square().mean().sqrt() <= few * most, name
        if name in ("lse", "grad_rpb"):
            assert difference.abs().max() <= 2.0**-15 * most, name


def in_tf32(family: str, dtype: torch.dtype) -> bool:
    """Whether the family multiplies `dtype` in TF32."""
    return dtype is torch.float32 and family != "simt"


def hold(family: str, case: Case, dtype: torch.dtype, found: dict[str, Tensor], slack: float = 0.0) -> None:
    """Holds the results of a family against what is right, with the errors that its numbers may have."""
    if in_tf32(family, dtype) and family != "dense":
        _, exact, _ = expected(case.name, dtype)
        natten_tf32.check(case, found, expected_of_tf32(case.name), exact, nearest=False)
    elif in_tf32(family, dtype):
        check_tf32(case, found)
    else:
        check(case, dtype, found, slack)
