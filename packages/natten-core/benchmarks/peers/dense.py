"""Attention of every token to every token, with the windows and the bias as a mask."""

from __future__ import annotations

import math

import torch.nn.functional as F
from harness.problems import Problem
from torch import Tensor

from peers.geometry import windows


class Dense:
    """`F.scaled_dot_product_attention` on the flattened map with a mask `[heads, tokens, tokens]`."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.keys, self.bias_index = windows(problem)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, rpb: Tensor) -> Tensor:
        tokens, heads = self.problem.tokens, self.problem.heads
        bias = rpb.flatten(1).index_select(1, self.bias_index.flatten()).view(heads, tokens, -1)
        mask = bias.new_full((heads, tokens, tokens), -math.inf).scatter(2, self.keys.expand(heads, -1, -1), bias)
        q, k, v = (x.flatten(1, -3).transpose(1, 2) for x in (query, key, value))
        output = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None])
        return output.transpose(1, 2).reshape(query.shape)
