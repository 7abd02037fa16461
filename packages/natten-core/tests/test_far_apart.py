"""Tensors whose neighbours lie more than 2 ** 31 elements apart, in memory that is never used but where they are."""

from __future__ import annotations

import mmap
from typing import Any

import pytest
import torch
from natten_cases import Case
from natten_compare import results
from natten_slots import FIRST, SECOND, part, windowed
from torch import Tensor

from natten_core import na2d_av, na2d_qk, neighborhood_attention

FAR = (1 << 31) + 4096
NO_RESERVE = 0x4000  # Linux's MAP_NORESERVE: address space alone
# Each axis of two in turn: batch, y, x, heads.
SHAPES = {0: (2, 4, 6, 2), 1: (1, 2, 6, 2), 2: (1, 4, 2, 2), 3: (1, 4, 6, 2)}


class Room:
    """Address space for tensors that lie in it far apart, one beside the other."""

    def __init__(self, dtype: torch.dtype) -> None:
        size = (FAR + (1 << 22)) * dtype.itemsize
        try:
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
        except (OSError, ValueError) as error:
            pytest.skip(f"no {size / 1e9:.0f} GB of address space: {error}")
        self.all, self.used = torch.frombuffer(memory, dtype=dtype), 0

    def far(self, tensor: Tensor, axis: int) -> Tensor:
        """The same values, with neighbours along `axis`, of which there are two, far apart."""
        strides = list(tensor.movedim(axis, 0).contiguous().movedim(0, axis).stride())
        strides[axis] = FAR
        view = self.all[self.used :].as_strided(tensor.shape, strides)
        self.used += tensor.numel()
        return view.copy_(tensor.detach()).requires_grad_()


def of_kind(kind: str, axis: int) -> Case:
    batch, y, x, heads = SHAPES[axis]
    if kind == "plain":
        return Case(f"far-{axis}", (y, x), (2, 2), batch=batch, heads=heads)
    heads_q = heads if axis == 3 else 2 * heads
    more = {"head_dim_v": 5, "additional": 2}
    return Case(f"far-{axis}", (y, x), (2, 2), (1, 1), (2, 1), (False, True), batch, heads_q, heads, **more)


def same(found: dict[str, Tensor], wanted: dict[str, Tensor], backend: str) -> None:
    """The same bits, but for the reference, whose matrix products go by the layout."""
    for name, result in found.items():
        torch.testing.assert_close(result, wanted[name], **({} if backend == "reference" else {"rtol": 0, "atol": 0}))


def attend(case: Case, backend: str) -> Any:
    return lambda given: neighborhood_attention(**given, **case.settings, return_lse=True, backend=backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("axis", SHAPES)
@pytest.mark.parametrize("kind", ["plain", "everything"])
def test_far_apart(kind: str, axis: int, dtype: torch.dtype, backend: str) -> None:
    case, room = of_kind(kind, axis), Room(dtype)
    near = case.tensors(dtype)
    lead = (case.batch, *case.spatial, case.heads)
    grad = torch.randn(*lead, near["value"].shape[-1]).to(dtype)
    far = {name: t if name == "rpb" or name[0] == "a" else room.far(t, axis) for name, t in near.items()}
    if kind == "everything":
        far |= {name: room.far(near[name], 1) for name in ("additional_keys", "additional_values")}
    far_grad = room.far(grad, axis).detach() if grad.shape[axis] == 2 else grad
    assert all(max(t.stride()) == FAR for name, t in far.items() if name != "rpb")
    wanted = results(attend(case, backend), near, (grad, torch.ones(lead)))
    found = results(attend(case, backend), far, (far_grad, torch.ones(lead)))
    same(found, wanted, backend)


@pytest.mark.parametrize("axis", SHAPES)
def test_stages_far_apart(axis: int, backend: str) -> None:
    case, room = of_kind("everything", axis)._replace(heads=2, heads_kv=None), Room(torch.float32)
    near = case.tensors(torch.float32)
    near["attn"] = torch.randn(case.batch, *case.spatial, 2, 6, requires_grad=True)
    far = {name: t if name == "rpb" else room.far(t, 1 if name[:2] == "ad" else axis) for name, t in near.items()}
    grad = torch.randn(*near["query"].shape[:-1], 5)

    def stages(given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        scores = na2d_qk(**part(given, FIRST), **windowed(case), backend=backend)
        scores = torch.where(scores == -torch.inf, 0.0, scores)
        return na2d_av(given["attn"], **part(given, SECOND), **windowed(case), backend=backend), scores

    wanted = results(stages, near, (grad, near["attn"].detach()))
    found = results(stages, far, (room.far(grad, axis).detach(), far["attn"].detach()))
    same(found, wanted, backend)
