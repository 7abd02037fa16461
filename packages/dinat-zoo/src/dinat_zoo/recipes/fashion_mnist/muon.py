"""Muon (https://kellerjordan.github.io/posts/muon/) for CPUs.

timm's Muon orthogonalises in bfloat16, one matrix at a time: made for GPUs. On a core without bfloat16 instructions
(AVX2), `dinat_pico`'s step took 15 times as long with it as with this one, which works in the parameters' dtype and on
all matrices of one shape at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

# Coefficients of the quintic iteration, from the page above: they trade exactness for speed, and leave singular values
# between about 0.7 and 1.2.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Move all singular values of every matrix towards 1, by a Newton-Schulz iteration.

    Args:
        matrices: `[..., rows, columns]`.
        steps: iterations.

    Returns:
        New tensor of the same shape and dtype.
    """
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    result: Tensor = x if wide else x.mT
    return result


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonalised momentum, scaled to AdamW's usual length (https://arxiv.org/abs/2502.16982).

    Args:
        params: parameters of two dimensions or more; a kernel counts as a matrix of its output channels' rows.
        lr: learning rate, of the size that AdamW would have.
        momentum: weight of the past in the average of the gradients.
        weight_decay: decoupled decay, as AdamW's.

    Raises:
        ValueError: where a parameter has fewer than two dimensions.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim < 2:
                    raise ValueError(f"a parameter has the shape {list(parameter.shape)}; Muon takes matrices only.")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the parameters that have gradients.

        Args:
            closure: not used; there for the base class.
        """
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for parameters in shapes.values():
                self._step(parameters, group)

    def _step(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> None:
        momenta = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            momenta.append(state["momentum"].lerp_(parameter.grad, 1 - group["momentum"]))
        updates = orthogonalize(torch.stack(momenta).flatten(2))
        length = 0.2 * max(updates.shape[1:]) ** 0.5
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.sub_(update.view_as(parameter), alpha=group["lr"] * length)
