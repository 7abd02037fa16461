"""What float32 is in TF32: products of numbers of 11 bits, exact but for that."""

from __future__ import annotations

import natten_oracle
import torch
from natten_cases import Case, relative_error
from torch import Tensor


def rounded(tensor: Tensor) -> Tensor:
    """To the nearest numbers with 10 bits of fraction, ties away from zero; as float64."""
    bits = tensor.float().view(torch.int32)
    return ((bits + 0x1000) & -0x2000).view(torch.float32).double()


def results(case: Case, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """All results in float64, with the factors of every product rounded, and nothing else.

    Args:
        case: one without additional keys.
        inputs: float32 tensors by name, grad_output and grad_lse among them.
    """
    repeat = case.heads // (case.heads_kv or case.heads)
    main = [inputs[name].flatten(1, -3).transpose(1, 2) for name in ("query", "key", "value", "grad_output")]
    q, k, v, grad_output = (rounded(t).repeat_interleave(case.heads // t.shape[1], 1) for t in main)
    settings = case.settings
    scale = case.head_dim**-0.5 if settings["scale"] is None else settings["scale"]
    windows = (settings[name] for name in ("kernel_size", "stride", "dilation", "is_causal"))
    seen, entry = natten_oracle._relations(case.spatial, *windows)
    scores = scale * (q @ k.transpose(-1, -2))
    if case.bias:
        scores = scores + inputs["rpb"].double().flatten(1)[:, entry]
    scores = torch.where(seen, scores, -torch.inf)
    lse = torch.logsumexp(scores, -1)
    unscaled = torch.exp(scores - scores.amax(-1, keepdim=True))
    output = rounded(unscaled) @ v / unscaled.sum(-1, keepdim=True)
    weights, grad = torch.exp(scores - lse[..., None]), grad_output @ v.transpose(-1, -2)
    grad_lse = inputs["grad_lse"].double().flatten(1, -2).transpose(1, 2)
    grad = weights * (grad - (weights * grad).sum(-1, keepdim=True) + grad_lse[..., None])
    grad_key = scale * (rounded(grad).transpose(-1, -2) @ q)
    grad_value = rounded(weights).transpose(-1, -2) @ grad_output
    found = {
        "output": output,
        "lse": lse,
        "grad_query": scale * (rounded(grad) @ k),
        "grad_key": grad_key.unflatten(1, (-1, repeat)).sum(2),
        "grad_value": grad_value.unflatten(1, (-1, repeat)).sum(2),
    }
    found = {name: tensor.transpose(1, 2).unflatten(1, case.spatial) for name, tensor in found.items()}
    if case.bias:
        sums = torch.zeros(inputs["rpb"].shape, dtype=torch.float64).flatten(1)
        found["grad_rpb"] = sums.index_add(1, entry[seen], grad.sum(0)[:, seen]).view_as(inputs["rpb"])
    return found


def check(case: Case, found: dict[str, Tensor], in_tf32: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    """Holds results by name against exact ones: they may err by a quarter more than `results` of TF32 does.

    A factor errs by 2^-11 of itself at most, a product by twice that. With an ordinary scale this leaves 2^-10 of the
    largest value; what scores err by, a larger scale makes larger.
    """
    for name, tensor in found.items():
        assert tensor.dtype is torch.float32, name
        assert torch.isfinite(tensor).all(), f"{name} is not finite everywhere"
        error, allowed = relative_error(tensor, exact[name]), relative_error(in_tf32[name], exact[name])
        assert error <= 1.25 * allowed + 2.0**-13, f"{name}: error {error:.3e}, that of TF32 {allowed:.3e}"
        if case.scale is None:
            assert error <= 2.0**-10, f"{name}: error {error:.3e}"
