"""Attention and its gradients as loops over numbers: no tensor operation, nothing to get wrong but the formula."""

from __future__ import annotations

import itertools
import math
from typing import Any

import natten_oracle
import torch
from natten_cases import Case
from torch import Tensor


def attention(case: Case, tensors: dict[str, Tensor], grad_output: Tensor, grad_lse: Tensor) -> dict[str, Tensor]:
    """Output, log-sum-exp, and the gradients of all tensors, by name.

    With weights P, dP = dO . V and dS = P (dP - sum of P dP + dlse): dV = P dO, dQ = scale dS K, dK = scale dS Q.
    """
    scale = case.head_dim**-0.5 if case.scale is None else case.scale
    given = {name: _numbers(tensor, name) for name, tensor in tensors.items()}
    grads = {name: _numbers(torch.zeros_like(tensor), name) for name, tensor in tensors.items()}
    d_output, d_lse = _numbers(grad_output, "output"), grad_lse.flatten(1, -2).tolist()
    outputs = _numbers(torch.zeros_like(grad_output), "output")
    lses = torch.zeros(grad_lse.flatten(1, -2).shape).tolist()
    tokens = list(itertools.product(*map(range, case.spatial)))
    for b, i, h in itertools.product(range(case.batch), range(len(tokens)), range(case.heads)):
        kv = h // (case.heads // (case.heads_kv or case.heads))
        seen = [("key", "value", j, entry) for j, entry in _window(case, tokens, i)]
        seen += [("additional_keys", "additional_values", n, None) for n in range(case.additional or 0)]
        query, d_out = given["query"][b][i][h], d_output[b][i][h]
        scores = []
        for keys, _, j, entry in seen:
            bias = given["rpb"][h][entry] if "rpb" in given and entry is not None else 0.0
            scores.append(scale * _dot(query, given[keys][b][j][kv]) + bias)
        most = max(scores)
        total = sum(math.exp(score - most) for score in scores)
        lses[b][i][h] = most + math.log(total)
        weights = [math.exp(score - most) / total for score in scores]
        d_weights = [_dot(d_out, given[values][b][j][kv]) for _, values, j, _ in seen]
        mean = sum(w * d for w, d in zip(weights, d_weights, strict=True))
        for (keys, values, j, entry), weight, d_weight in zip(seen, weights, d_weights, strict=True):
            _add(outputs[b][i][h], weight, given[values][b][j][kv])
            d_score = weight * (d_weight - mean + d_lse[b][i][h])
            _add(grads[values][b][j][kv], weight, d_out)
            _add(grads["query"][b][i][h], scale * d_score, given[keys][b][j][kv])
            _add(grads[keys][b][j][kv], scale * d_score, query)
            if "rpb" in given and entry is not None:
                grads["rpb"][h][entry] += d_score
    made = {"output": (outputs, grad_output), "lse": (lses, grad_lse)}
    made |= {name: (grad, tensors[name]) for name, grad in grads.items()}
    return {name: torch.tensor(found, dtype=torch.float64).reshape(like.shape) for name, (found, like) in made.items()}


def _window(case: Case, tokens: list[tuple[int, ...]], i: int) -> list[tuple[int, int]]:
    """The number of every key that token i sees, and of the entry of the bias table for it."""
    settings = case.settings
    names = ("kernel_size", "dilation", "stride", "is_causal")
    axes = zip(tokens[i], case.spatial, *(settings[name] for name in names), strict=True)
    found = []
    for other in itertools.product(*(natten_oracle.window(*axis) for axis in axes)):
        number = entry = 0
        for a, b, length, kernel, dilation in zip(
            tokens[i], other, case.spatial, case.kernel_size, settings["dilation"], strict=True
        ):
            number = number * length + b
            entry = entry * (2 * kernel - 1) + b // dilation - a // dilation + kernel - 1
        found.append((number, entry))
    return found


def _numbers(tensor: Tensor, name: str) -> Any:
    """Nested lists: [batch][token][head][dim], of the bias [head][entry]."""
    tensor = tensor.detach()
    return (tensor.flatten(1) if name == "rpb" else tensor.flatten(1, -3)).tolist()


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _add(to: list[float], factor: float, row: list[float]) -> None:
    for d, x in enumerate(row):
        to[d] += factor * x
