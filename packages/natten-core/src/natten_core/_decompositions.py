"""The operators as plain torch operations, for whoever has to run a graph without this package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.torch_version import TorchVersion
from torch.utils._python_dispatch import _disable_current_modes

from natten_core import _two_stage_ops
from natten_core._ops import na_forward, na_qkvpacked_forward
from natten_core._problem import Problem, check
from natten_core.backends import reference, reference_two_stage

# Before, torch lost the constants of decompositions (pytorch/pytorch#164461): graphs get the arithmetic instead.
_TAKES_CONSTANTS = TorchVersion(torch.__version__) >= "2.14"


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Each operator of this package that models call, with what computes the same in standard ATen operations.

    For `torch.export.ExportedProgram.run_decompositions`; the graph then needs natten-core no more. For tiles of
    neighbouring queries, attention becomes a gather of the keys and values around them with constant indices, two
    matrix products and a masked softmax: about four times the operator's multiplications for a 7x7 window, and no
    array that grows with the square of the map. The two stages apart (`na2d_qk`, `na2d_av`) become one gather per slot
    of the window, which makes a large graph.

    The batch may be symbolic, and so may the sizes of the map. For a map of symbolic size, the graph computes the
    indices itself and gathers one row of every window at a time, 7 times the keys' memory for a 7x7 window; of a map
    that is too small for the window it does not know. Before torch 2.14 the indices are computed in the graph in any
    case, which then is three times as large. Backward operators are not among them.

    Returns:
        A table from operators to functions, as `torch.export.default_decompositions` is one, to be merged with others.

    Example:
        >>> import torch, natten_core
        >>> module = natten_core.NeighborhoodAttention2D(16, 2, 3).eval()
        >>> program = torch.export.export(module, (torch.randn(1, 8, 8, 16),))
        >>> program = program.run_decompositions(natten_core.decompositions())
        >>> any("natten_core" in str(node.target) for node in program.graph.nodes)
        False
    """
    tilings: Tilings = {}
    return {
        na_forward: partial(_attention, tilings),
        na_qkvpacked_forward: partial(_packed_attention, tilings),
        _two_stage_ops.qk: _two_stage_ops.reference_qk,
        _two_stage_ops.av: _two_stage_ops.reference_av,
    }


class _ConstantTiling(reference.Tiling):
    """A tiling whose index arrays are numbers, not operations of the graph that is being made."""

    def __init__(self, problem: Problem) -> None:
        self.made: dict[tuple[int, int], reference.Tiles] = {}
        with _disable_current_modes():
            super().__init__(problem)
            self.whole_order = super().order()

    def tiles(self, first: int, last: int) -> reference.Tiles:
        """As they are; the same objects when asked again, of which a graph has one copy."""
        if (first, last) not in self.made:
            with _disable_current_modes():
                self.made[first, last] = super().tiles(first, last)
        return self.made[first, last]

    def order(self) -> Tensor:
        """As it is; the same object when asked again."""
        return self.whole_order


Tilings: TypeAlias = "dict[Problem, reference.Tiling]"


def _attention(
    tilings: Tilings,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    is_causal: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor | None]:
    window, step, spread = map(tuple, (kernel_size, stride, dilation))
    causal = tuple(bool(one) for one in is_causal)
    more = (rpb, additional_keys, additional_values)
    problem = check(query, key, value, window, step, spread, causal, scale, *more, len(window))
    if any(isinstance(length, torch.SymInt) for length in problem.spatial):
        return _of_any_size(problem, query, key, value, *more)
    problem = reference.with_numbers(problem)._replace(batch=1)  # how a map is cut may depend on the batch: not here
    if not _TAKES_CONSTANTS:
        tiling = reference.Tiling(problem)
    else:
        tiling = tilings[problem] = tilings.get(problem) or _ConstantTiling(problem)
    return reference.tiled(tiling, query, key, value, *more)


def _of_any_size(
    problem: Problem,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """The same for a map whose sizes are symbols: one row of every window at a time, its indices made in the graph."""
    dtype, heads = problem.compute_dtype, (problem.heads_kv, problem.heads // problem.heads_kv)
    token, seen, entry = reference_two_stage.slots(problem)
    rows = token.split(problem.kernel_size[-1], 1)
    queries, keys, values = (tensor.to(dtype).flatten(1, -3) for tensor in (query, key, value))
    queries = (queries * problem.scale).unflatten(-2, heads)
    local = torch.cat([queries @ _gather(keys, row).transpose(-1, -2) for row in rows], -1).flatten(2, 3)
    if rpb is not None:
        local = local + rpb.to(dtype).flatten(1)[:, entry].transpose(0, 1)
    scores = local.masked_fill(~seen[:, None], float("-inf"))  # [batch, tokens, heads, slots]
    if additional_keys is not None:
        more = queries @ additional_keys.to(dtype).permute(0, 2, 3, 1)[:, None]
        scores = torch.cat([scores, more.flatten(2, 3)], -1)
    weights = torch.softmax(scores, -1).unflatten(2, heads)
    width = problem.kernel_size[-1]
    terms = [weights[..., i * width : (i + 1) * width] @ _gather(values, row) for i, row in enumerate(rows)]
    if additional_values is not None:
        terms.append(weights[..., token.shape[1] :] @ additional_values.to(dtype).transpose(1, 2)[:, None])
    output = reduce(torch.add, terms).flatten(2, 3).unflatten(1, problem.spatial)
    return output.to(problem.dtype), torch.logsumexp(scores, -1).unflatten(1, problem.spatial)


def _gather(tensor: Tensor, row: Tensor) -> Tensor:
    """[batch, tokens, heads, n] and [tokens, slots] of tokens -> [batch, tokens, heads, slots, n]."""
    taken: Tensor = tensor.index_select(1, row.flatten()).unflatten(1, row.shape).transpose(2, 3)
    return taken


def _packed_attention(tilings: Tilings, qkv: Tensor, *rest: Any) -> tuple[Tensor, Tensor | None]:
    query, key, value = qkv.unbind(-3)
    return _attention(tilings, query, key, value, *rest)
