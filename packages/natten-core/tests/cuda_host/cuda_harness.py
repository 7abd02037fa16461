"""Runs a family of cuda kernels on CPU tensors, in the emulator, and fails on everything that it reports.

    out, lse = run_forward("simt", query, key, value, (7, 7), dilation=(2, 2), rpb=rpb)
    grads = run_backward("simt", grad_out, out, lse, query, key, value, (7, 7), dilation=(2, 2), rpb=rpb)

`catch` of the options returns reports instead of failing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cuda_builder
import torch
from torch import Tensor

_READ, _WRITE = 0, 1  # emu::Access


class Report(NamedTuple):
    """Something that a device would not have told."""

    kind: str
    file: str
    line: int
    count: int
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {Path(self.file).name}:{self.line}: {self.text} ({self.count} times)"


class Wavefronts(NamedTuple):
    """Passes over the banks of shared memory made by the accesses of one place in the sources."""

    op: str
    file: str
    line: int
    accesses: int
    wavefronts: int
    least: int

    def __str__(self) -> str:
        return f"{self.op} {Path(self.file).name}:{self.line}: {self.wavefronts} wavefronts, {self.least} at least"


class EmulatorError(AssertionError):
    """The emulator has reports."""


@dataclass
class Options:
    """How the emulator runs; its answers are left here too."""

    seed: int = 0
    threads: int = 2
    mma_truncate: bool = False
    jitter: float = 0.0
    count_banks: bool = False
    architecture: int = 90
    multiprocessors: int = 132
    changed: Path | None = None
    without: str = ""
    catch: bool = False
    reports: list[Report] = field(default_factory=list)
    wavefronts: list[Wavefronts] = field(default_factory=list)
    launches: int = 0
    workspace: int = 0
    total_wavefronts: int = 0  # of all runs with these options

    def settings(self) -> dict[str, Any]:
        names = ("seed", "threads", "mma_truncate", "jitter", "count_banks", "architecture", "multiprocessors")
        return {name: getattr(self, name) for name in names}

    def take(self, results: dict[str, Any]) -> None:
        self.reports = [Report(*report) for report in results["reports"]]
        self.wavefronts = [Wavefronts(*count) for count in results["wavefronts"]]
        self.total_wavefronts += sum(count.wavefronts for count in self.wavefronts)
        self.launches, self.workspace = results["launches"], results.get("workspace", 0)
        if self.reports and not self.catch:
            raise EmulatorError("\n".join(str(report) for report in self.reports))


class Grads(NamedTuple):
    """As `run_backward` returns them; None for what was not given."""

    query: Tensor
    key: Tensor
    value: Tensor
    rpb: Tensor | None = None
    additional_keys: Tensor | None = None
    additional_values: Tensor | None = None


def unsupported(
    family: str, query: Tensor, key: Tensor, value: Tensor, kernel_size: Sequence[int], **settings: Any
) -> str | None:
    """The family's reason not to run the problem, or None."""
    settings = {name: value for name, value in settings.items() if name in _SETTINGS}
    reason = cuda_builder.family_module(family).unsupported(_problem(query, key, value, kernel_size, **settings))
    return None if reason is None else str(reason)


def run_forward(
    family: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int] | None = None,
    stride: Sequence[int] | None = None,
    is_causal: Sequence[bool] | None = None,
    scale: float | None = None,
    rpb: Tensor | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    options: Options | None = None,
    output: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output, in `output` if it is given, and log-sum-exp."""
    options = options or Options()
    problem = _problem(query, key, value, kernel_size, dilation, stride, is_causal, scale, additional_keys)
    if output is None:
        output = torch.empty(*query.shape[:-1], value.shape[-1], dtype=query.dtype)
    lse = torch.empty(query.shape[:-1], dtype=_accumulation(query.dtype))
    inputs = {
        "query": query,
        "key": key,
        "value": value,
        "rpb": _bias(rpb, query),
        "additional_key": additional_keys,
        "additional_value": additional_values,
    }
    _run(
        cuda_builder.family_module(family, options.changed, options.without).forward,
        problem,
        inputs,
        {"output": output, "lse": lse},
        options,
    )
    return output, lse


def run_backward(
    family: str,
    grad_output: Tensor,
    output: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int] | None = None,
    stride: Sequence[int] | None = None,
    is_causal: Sequence[bool] | None = None,
    scale: float | None = None,
    rpb: Tensor | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    grad_lse: Tensor | None = None,
    options: Options | None = None,
    grads: Sequence[Tensor] | None = None,
) -> Grads:
    """Gradients; those of query, key and value in `grads` if they are given."""
    options = options or Options()
    problem = _problem(query, key, value, kernel_size, dilation, stride, is_causal, scale, additional_keys)
    bias = _bias(rpb, query)
    inputs = {
        "query": query,
        "key": key,
        "value": value,
        "rpb": bias,
        "additional_key": additional_keys,
        "additional_value": additional_values,
        "output": output,
        "lse": lse,
        "grad_output": grad_output,
        "grad_lse": grad_lse,
    }
    made = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (query, key, value)]
    outputs = dict(zip(("grad_query", "grad_key", "grad_value"), grads or made, strict=True))
    if bias is not None:
        outputs["grad_rpb"] = torch.empty_like(bias)
    if additional_keys is not None and additional_values is not None:
        outputs["grad_additional_key"] = torch.empty_like(additional_keys)
        outputs["grad_additional_value"] = torch.empty_like(additional_values)
    _run(
        cuda_builder.family_module(family, options.changed, options.without).backward, problem, inputs, outputs, options
    )
    last = (outputs.get(name) for name in ("grad_rpb", "grad_additional_key", "grad_additional_value"))
    return Grads(outputs["grad_query"], outputs["grad_key"], outputs["grad_value"], *last)


_SETTINGS = ("dilation", "stride", "is_causal", "scale", "additional_keys")


def _problem(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int] | None = None,
    stride: Sequence[int] | None = None,
    is_causal: Sequence[bool] | None = None,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
) -> dict[str, Any]:
    """What the module makes a Problem of: axes always z, y, x."""
    rank = len(kernel_size)
    batch, *spatial, heads, head_dim = query.shape
    ones, more = (1,) * rank, (1,) * (3 - rank)
    return {
        "dtype": str(query.dtype).removeprefix("torch."),
        "rank": rank,
        "batch": batch,
        "heads": heads,
        "heads_kv": key.shape[-2],
        "head_dim": head_dim,
        "head_dim_v": value.shape[-1],
        "additional": 0 if additional_keys is None else additional_keys.shape[1],
        "extent": (*more, *spatial),
        "kernel": (*more, *kernel_size),
        "stride": (*more, *(stride or ones)),
        "dilation": (*more, *(dilation or ones)),
        "causal": (*(False for _ in more), *(is_causal or (False,) * rank)),
        "scale": head_dim**-0.5 if scale is None else scale,
    }


def _run(
    call: Any, problem: dict[str, Any], inputs: dict[str, Tensor | None], outputs: dict[str, Tensor], options: Options
) -> None:
    rank = problem["rank"]
    there = {name: tensor for name, tensor in inputs.items() if tensor is not None and tensor.numel()}
    views = {name: _view(name, tensor, rank) for name, tensor in {**there, **outputs}.items()}
    buffers = [_buffer(tensor, _READ) for tensor in there.values()]
    buffers += [_buffer(tensor, _WRITE) for tensor in outputs.values()]
    for tensor in outputs.values():
        tensor.fill_(float("nan"))  # what is not written shows
    options.take(call(problem, views, buffers, options.settings()))


def _view(name: str, tensor: Tensor, rank: int) -> tuple[int, ...]:
    """Address and strides (batch, z, y, x, heads) of [B, *spatial, heads, ...]; of a bias table the address alone."""
    strides = tensor.stride()
    if name.endswith("rpb"):
        assert tensor.is_contiguous()
        return (tensor.data_ptr(), 0, 0, 0, 0, 0)
    if "additional" in name:
        return (tensor.data_ptr(), strides[0], 0, 0, strides[1], strides[2])
    return (tensor.data_ptr(), strides[0], *(0,) * (3 - rank), *strides[1 : rank + 2])


def _buffer(tensor: Tensor, access: int) -> tuple[int, int, int]:
    last = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), (last + 1) * tensor.element_size(), access


def _accumulation(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32


def _bias(rpb: Tensor | None, query: Tensor) -> Tensor | None:
    return None if rpb is None else rpb.to(_accumulation(query.dtype)).contiguous()
