"""Times what a call costs on the host, on a problem so small that the kernel takes next to nothing.

    python bench_overhead.py
    chrt -f 40 taskset -c 0 python bench_overhead.py      on a machine that others use too

Prints microseconds per call, on one thread. Beside ours stand the kernel alone, called with what it needs in hand; the
operator through torch's dispatcher; a registered operator that does nothing but make its results, the least that a
dispatched one can cost; and torch's own attention over the same tokens. Then the kernel alone on small maps, told to
use one thread and two: two must not lose.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import machine, report
from harness.timing import Samples, interleave
from torch import Tensor

import natten_core
from natten_core import _ops
from natten_core.backends import _handle

SHAPE = (1, 3, 3, 1, 4)
SETTINGS: tuple[Any, ...] = ((3, 3), (1, 1), (1, 1), (0, 0), 0.5)
SMALL_MAPS = ((1, 3, 3, 1, 4), (1, 7, 7, 2, 32), (1, 14, 14, 4, 32), (1, 28, 28, 4, 32))
HEADER = ("call", "us", "q1 - q3", "min")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        samples = interleave(calls(), options.seconds, min_rounds=3, sample_seconds=0.01 if options.seconds else 0)
    finally:
        torch.set_num_threads(before)
    print(report.aligned([HEADER, *(row(name, sample) for name, sample in samples.items())]))
    if options.out:
        record = {name: sample.summary() for name, sample in samples.items()}
        options.out.write_text(json.dumps({"machine": machine.facts(), "ms": record}, indent=1) + "\n")
    return 0


def calls() -> dict[str, Callable[[], object]]:
    """Everything that is timed, by name."""
    query, key, value = torch.randn(3, *SHAPE).unbind()
    qkv, grad = torch.randn(*SHAPE[:3], 3, *SHAPE[3:]), torch.randn(SHAPE)
    weights = torch.rand(*SHAPE[:4], 9)
    leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
    packed, weights_leaf = qkv.clone().requires_grad_(), weights.clone().requires_grad_()
    nothing = operator_that_does_nothing()
    attention = torch.nn.functional.scaled_dot_product_attention

    def na2d(*tensors: Tensor) -> Any:
        return natten_core.na2d(*tensors, 3, backend="cpu")

    def na2d_qkvpacked(tensor: Tensor) -> Any:
        return natten_core.na2d_qkvpacked(tensor, 3, backend="cpu")

    def na2d_qk(*tensors: Tensor) -> Any:
        return natten_core.na2d_qk(*tensors, 3, backend="cpu")

    def na2d_av(*tensors: Tensor) -> Any:
        return natten_core.na2d_av(*tensors, 3, backend="cpu")

    def operator(*tensors: Tensor) -> Any:
        return _ops.na_forward(*tensors, None, None, None, *SETTINGS)[0]

    return {
        "na2d": lambda: na2d(query, key, value),
        "na2d_qkvpacked": lambda: na2d_qkvpacked(qkv),
        "na2d_qk": lambda: na2d_qk(query, key),
        "na2d_av": lambda: na2d_av(weights, value),
        "operator": lambda: operator(query, key, value),
        "operator that does nothing": lambda: nothing(query, key, value),
        "kernel alone": kernel(query, key, value),
        "torch's attention": lambda: attention(query, key, value),
        "na2d, recording": lambda: na2d(*leaves),
        "na2d_qkvpacked, recording": lambda: na2d_qkvpacked(packed),
        "na2d_qk, recording": lambda: na2d_qk(*leaves[:2]),
        "na2d_av, recording": lambda: na2d_av(weights_leaf, leaves[2]),
        "operator, recording": lambda: operator(*leaves),
        "operator that does nothing, recording": lambda: nothing(*leaves),
        "torch's attention, recording": lambda: attention(*leaves),
        "na2d and backward": lambda: torch.autograd.grad(na2d(*leaves), leaves, grad),
        "na2d_qkvpacked and backward": lambda: torch.autograd.grad(na2d_qkvpacked(packed), packed, grad),
        "na2d_qk and backward": lambda: torch.autograd.grad(na2d_qk(*leaves[:2]), leaves[:2], weights),
        "na2d_av and backward": lambda: torch.autograd.grad(
            na2d_av(weights_leaf, leaves[2]), (weights_leaf, leaves[2]), grad
        ),
        "operator and backward": lambda: torch.autograd.grad(operator(*leaves), leaves, grad),
        "torch's attention and backward": lambda: torch.autograd.grad(attention(*leaves), leaves, grad),
        **{
            f"kernel alone, {'x'.join(map(str, shape))}, {report.threads({'threads': threads})}": kernel(
                *torch.randn(3, *shape).unbind(), threads=threads
            )
            for shape in SMALL_MAPS
            for threads in (1, 2)
        },
    }


def kernel(query: Tensor, key: Tensor, value: Tensor, threads: int = 1) -> Callable[[], object]:
    """The compiled function, with addresses and strides at hand."""
    shape = tuple(query.shape)
    output, lse = torch.empty(shape), torch.empty(shape[:-1])
    problem = _handle.make(query.dtype, *(shape,) * 3, None, None, None, *SETTINGS)
    spans = [_handle.span(tensor) for tensor in (query, key, value)]
    results = [_handle.span(tensor) for tensor in (output, lse)]
    kept, forward = (query, key, value, output, lse), _handle.kernels().cpu_forward

    def call() -> object:
        forward(problem, threads, *spans, 0, None, None, *results)
        return kept  # the memory must live as long as the call

    return call


_LIBRARY = torch.library.Library("natten_core_bench", "DEF")


def operator_that_does_nothing() -> Any:
    """Registered as ours are, in Python and with a gradient."""
    if not hasattr(torch.ops.natten_core_bench, "nothing"):
        _LIBRARY.define("nothing(Tensor query, Tensor key, Tensor value) -> (Tensor, Tensor)")
        _LIBRARY.impl("nothing", lambda q, k, v: (torch.empty_like(q), torch.empty_like(q)), "CPU")
        torch.library.register_autograd("natten_core_bench::nothing", lambda ctx, *grads: (None, None, None))
    return torch.ops.natten_core_bench.nothing.default


def row(name: str, sample: Samples) -> tuple[str, ...]:
    us = {
        key: report.digits(1e3 * value)
        for key, value in sample.summary().items()
        if key in ("median", "q1", "q3", "min")
    }
    return name, us["median"], f"{us['q1']} - {us['q3']}", us["min"]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to measure (default: 10)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the times as JSON, with the machine's facts")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
