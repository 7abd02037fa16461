"""What else can compute the same on a device: compiled FlexAttention, masked dense attention, NATTEN.

Peers get their tensors in the layout that suits them best, at no charge: heads first, and a dilated map already
reordered so that each of its residue maps is one run of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from gpu.problems import Problem

# Of the largest temporary tensor that a peer may need.
PEER_BYTES = 8 << 30


@dataclass
class Contender:
    """Something timed.

    Attributes:
        attend: the output of `inputs`.
        inputs: tensors, of which those of `leaves` want gradients.
        grad: gradient of the output.
        note: what it leaves out.
    """

    name: str
    attend: Callable[[], Tensor]
    leaves: tuple[Tensor, ...]
    grad: Tensor
    note: str = ""
    kept: list[Any] = field(default_factory=list)

    def forward(self) -> None:
        with torch.no_grad():
            self.attend()

    def backward(self) -> Callable[[], None]:
        output = self.attend()

        def call() -> None:
            torch.autograd.grad(output, self.leaves, self.grad, retain_graph=True)

        return call


def two_axes(problem: Problem) -> None:
    if problem.frames:
        raise NotImplementedError("this peer is written out for maps of two axes")


def residue_major(tensor: Tensor, dilation: int) -> Tensor:
    """[B, Y, X, heads, n] -> [B, heads, d * d * (Y / d) * (X / d), n], contiguous."""
    batch, length, _, heads, last = tensor.shape
    split = tensor.reshape(batch, length // dilation, dilation, length // dilation, dilation, heads, last)
    return split.permute(0, 5, 2, 4, 1, 3, 6).reshape(batch, heads, length**2, last).contiguous()


def relations(problem: Problem) -> tuple[Tensor, Tensor]:
    """Of one residue map: whether the query sees the key, and which entry of the flat bias table is theirs."""
    side, kernel = problem.length // problem.dilation, problem.kernel
    position = torch.arange(side, device=problem.device)
    start = (position - kernel // 2).clamp(0, side - kernel)
    near = position - start[:, None]
    seen = (near >= 0) & (near < kernel)
    offset = (position - position[:, None] + kernel - 1).clamp(0, 2 * kernel - 2)
    both = (seen[:, None, :, None] & seen[None, :, None, :]).reshape(side**2, side**2)
    entry = offset[:, None, :, None] * (2 * kernel - 1) + offset[None, :, None, :]
    return both, entry.reshape(side**2, side**2)


def dense(problem: Problem) -> Contender | None:
    """Attention of all tokens of a residue map to all, with mask and bias in one tensor made anew in every call."""
    two_axes(problem)
    tokens = (problem.length // problem.dilation) ** 2
    maps = problem.batch * problem.dilation**2
    if maps * problem.heads * tokens**2 * 4 > PEER_BYTES:
        return None
    qkv, rpb, grad = problem.inputs()

    def arrange(tensor: Tensor) -> Tensor:
        return residue_major(tensor, problem.dilation).unflatten(2, (-1, tokens)).transpose(1, 2).flatten(0, 1)

    query, key, value = (arrange(tensor).contiguous().requires_grad_() for tensor in qkv.unbind(-3))
    rpb = rpb.to(problem.dtype).requires_grad_()
    seen, entry = relations(problem)

    def attend() -> Tensor:
        bias = rpb.flatten(1)[:, entry].masked_fill(~seen, float("-inf"))
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])

    return Contender("dense-sdpa", attend, (query, key, value, rpb), arrange(grad).contiguous())


def flex(problem: Problem, with_bias: bool = True) -> Contender:
    """Compiled FlexAttention on residue-major tokens, its block mask made beforehand, the bias in its score_mod."""
    two_axes(problem)
    attention = import_module("torch.nn.attention.flex_attention")
    qkv, rpb, grad = problem.inputs()
    query, key, value = (residue_major(t, problem.dilation).requires_grad_() for t in qkv.unbind(-3))
    rpb = rpb.flatten(1).contiguous().requires_grad_()
    kernel, side = problem.kernel, problem.length // problem.dilation
    tokens, half = side**2, problem.kernel // 2

    def axis(q: Any, k: Any) -> Any:
        start = (q - half).clamp(0, side - kernel)
        return (k >= start) & (k < start + kernel)

    def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
        same = q // tokens == k // tokens
        q, k = q % tokens, k % tokens
        return same & axis(q // side, k // side) & axis(q % side, k % side)

    def add_bias(score: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        q, k = q % tokens, k % tokens
        rows = (k // side - q // side + kernel - 1).clamp(0, 2 * kernel - 2)
        columns = (k % side - q % side + kernel - 1).clamp(0, 2 * kernel - 2)
        return score + rpb[h, rows * (2 * kernel - 1) + columns]

    blocks = attention.create_block_mask(mask, None, None, problem.length**2, problem.length**2, device=problem.device)
    torch.compiler.reset()  # each problem is a compilation of its own, and torch gives up after eight
    compiled = torch.compile(attention.flex_attention, dynamic=False)
    modify = add_bias if with_bias else None

    def attend() -> Tensor:
        output: Tensor = compiled(query, key, value, score_mod=modify, block_mask=blocks)
        return output

    leaves = (query, key, value, *((rpb,) if with_bias else ()))
    name, note = ("flex", "") if with_bias else ("flex-no-bias", "no bias")
    return Contender(name, attend, leaves, residue_major(grad, problem.dilation), note)


def natten(problem: Problem) -> Contender:
    """NATTEN's own choice of kernels, which take no bias."""
    library = import_module("natten")
    qkv, _, grad = problem.inputs()
    query, key, value = (t.contiguous().requires_grad_() for t in qkv.unbind(-3))
    function = library.na3d if problem.frames else library.na2d

    def attend() -> Tensor:
        output: Tensor = function(query, key, value, kernel_size=problem.window, dilation=problem.dilations)
        return output

    return Contender("natten", attend, (query, key, value), grad, "no bias")


PEERS: dict[str, Callable[[Problem], Contender | None]] = {
    "dense-sdpa": dense,
    "flex": flex,
    "flex-no-bias": lambda problem: flex(problem, with_bias=False),
    "natten": natten,
}
