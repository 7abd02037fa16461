"""The CUDA kernels: allocates in torch, passes pointers, strides, integers and the current stream to `_C`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from natten_core import _loader
from natten_core._problem import Problem, compute_dtype
from natten_core._tracing import run_while_tracing
from natten_core.backends._aligned import aligned, copy_back, room
from natten_core.backends._handle import facts, hashable, kernels, make, span, spans_of_three

NAME = "cuda"


def not_supported_reasons(problem: Problem) -> tuple[str, ...]:
    """Why these kernels cannot run `problem`; empty where they can."""
    if problem.device.type != "cuda":
        return (f"the tensors are on {problem.device.type!r}",)
    return device_obstacles(problem.device.index)


@run_while_tracing
def device_obstacles(index: int | None) -> tuple[str, ...]:
    """Why nothing can run on a device, with what would help; None is the current one."""
    if _loader._C is None:
        return (_loader.reason,)
    if not hasattr(_loader._C, "cuda_devices"):
        return (
            "built without CUDA: install a wheel with CUDA kernels, or build natten-core where nvcc is on the PATH",
        )
    found = _loader._C.cuda_devices()
    if found["obstacle"]:
        return (found["obstacle"],)
    index = torch.cuda.current_device() if index is None else index
    if index >= len(found["devices"]):
        return (f"no device: the driver shows {len(found['devices'])}, not one numbered {index}",)
    device = found["devices"][index]
    if not device["built_for"]:
        built = _loader._C.cuda_architectures
        return (
            f"architecture not built: {device['name']} is an sm_{device['architecture']}, and this build has kernels "
            f"for {built}; build with NATTEN_CUDA_ARCHITECTURES={device['architecture']}",
        )
    return ()


def allows_tf32(dtype: torch.dtype) -> bool:
    """Whether torch's settings of this moment let products of `dtype` on CUDA round their factors to TF32.

    A backward asks again, as that of torch's own matrix products does.
    """
    if dtype is not torch.float32:
        return False
    matmul = torch.backends.cuda.matmul
    # Since torch 2.9. The older attribute follows it, but raises where settings of both kinds have been made.
    precision = getattr(matmul, "fp32_precision", None)
    return bool(matmul.allow_tf32) if precision is None else bool(precision == "tf32")


def kernel_name(problem: Problem, *tensors: Tensor) -> str:
    """The family of kernels that runs `problem`, for `natten_core.explain`."""
    return str(_choice(problem, tensors)[0])


def passed_over(problem: Problem, *tensors: Tensor) -> tuple[tuple[str, str], ...]:
    """The faster families of kernels, with the first thing that each does not support."""
    return tuple((name, f"it does not support {reason}") for name, reason in _choice(problem, tensors)[1])


def na_forward(
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
) -> tuple[Tensor, Tensor]:
    """Output [B, *spatial, heads, head_dim_v] in `query`'s dtype, lse [B, *spatial, heads] in the compute dtype."""
    output = query.new_empty((*query.shape[:-1], value.shape[-1]))
    lse = query.new_empty(query.shape[:-1], dtype=compute_dtype(query.dtype))
    if query.numel():
        call = _Call((query, key, value), rpb, (additional_keys, additional_values))
        shapes = (query.shape, key.shape, value.shape)
        call.forward(shapes, (kernel_size, stride, dilation, is_causal, scale), output, lse)
    return output, lse


def na_backward(
    grad_output: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    output: Tensor,
    lse: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    is_causal: Sequence[int],
    scale: float,
) -> tuple[Tensor, ...]:
    """Gradients (contiguous) of query, key, value, rpb, additional keys and values; empty for what was not given."""
    grads = [tensor.new_empty(tensor.shape) for tensor in (query, key, value)]
    call = _Call((query, key, value), rpb, (additional_keys, additional_values))
    shapes = (query.shape, key.shape, value.shape)
    settings = (kernel_size, stride, dilation, is_causal, scale)
    more = call.backward(shapes, settings, output, lse, grad_output, grad_lse, grads)
    return *grads, *more


def na_qkvpacked_forward(
    qkv: Tensor,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    *settings: Any,
) -> tuple[Tensor, Tensor]:
    """As `na_forward`, on qkv [B, *spatial, 3, heads, head_dim]."""
    shape = qkv.shape[:-3] + qkv.shape[-2:]
    output = qkv.new_empty(shape)
    lse = qkv.new_empty(shape[:-1], dtype=compute_dtype(qkv.dtype))
    if qkv.numel():
        call = _Call((qkv,), rpb, (additional_keys, additional_values))
        call.forward((shape,) * 3, settings, output, lse)
    return output, lse


def na_qkvpacked_backward(
    grad_output: Tensor,
    grad_lse: Tensor | None,
    qkv: Tensor,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    output: Tensor,
    lse: Tensor,
    *settings: Any,
) -> tuple[Tensor, ...]:
    """Gradients of qkv (contiguous, written in place by the kernels), rpb, additional keys and values."""
    grad_qkv = qkv.new_empty(qkv.shape)
    call = _Call((qkv,), rpb, (additional_keys, additional_values))
    shape = qkv.shape[:-3] + qkv.shape[-2:]
    more = call.backward((shape,) * 3, settings, output, lse, grad_output, grad_lse, (grad_qkv,))
    return grad_qkv, *more


class Kept:
    """Tensors of one call on the device, and the copies that had to be made for it, which live as long."""

    def __init__(self, like: Tensor) -> None:
        self.like, self.dtype = like, like.dtype
        self.kept: list[Tensor] = []

    def allocate(self, size: int) -> int:
        """Memory on the device for the kernels to work in: its address."""
        return self.keep(self.like.new_empty(size, dtype=torch.uint8)).data_ptr()

    def span(self, tensor: Tensor) -> tuple[int, ...] | None:
        """Address and strides of the tensor as the kernels read it."""
        return span(self.readable(tensor))

    def readable(self, tensor: Tensor) -> Tensor:
        """The tensor in the dtype of the call and with a unit last stride, itself where it is so already."""
        if tensor.dtype is not self.dtype:
            tensor = self.keep(tensor.to(self.dtype))
        if tensor.stride(-1) != 1 and tensor.shape[-1] != 1:
            tensor = self.keep(tensor.contiguous())
        return tensor

    def bias(self, rpb: Tensor | None) -> int:
        """Address of the bias as the kernels read it, 0 for None."""
        if rpb is None:
            return 0
        wide = compute_dtype(self.dtype)
        if rpb.dtype is not wide or not rpb.is_contiguous():
            rpb = self.keep(rpb.to(wide).contiguous())
        return rpb.data_ptr()

    def keep(self, tensor: Tensor) -> Tensor:
        """The same tensor, which lives as long as the call."""
        self.kept.append(tensor)
        return tensor


class _Call(Kept):
    """What the kernels of attention read: query, key and value, or the three in one, and what belongs to them."""

    def __init__(self, main: Sequence[Tensor], rpb: Tensor | None, additional: Sequence[Tensor | None]) -> None:
        super().__init__(main[0])
        self.main, self.rpb, self.additional = [self.readable(one) for one in main], rpb, additional
        self.shapes = (
            None if rpb is None else rpb.shape,
            *(None if tensor is None else tensor.shape for tensor in additional),
        )
        self.has_additional = self.shapes[1] is not None and self.shapes[1][1] > 0
        self.spans_of_more = (self.bias(rpb), *(self._additional_span(tensor) for tensor in additional))

    def forward(self, shapes: Sequence[Any], settings: Sequence[Any], output: Tensor, lse: Tensor) -> None:
        head_dim = self._run_forward(self.main, shapes, settings, output, lse, False)
        if head_dim:
            copies = [aligned(tensor, head_dim) for tensor in _apart(self.main)]
            wide = room(output, head_dim)
            self._run_forward(copies, [copy.shape for copy in copies], settings, wide, lse, True)
            copy_back(output, wide)

    def backward(
        self,
        shapes: Sequence[Any],
        settings: Sequence[Any],
        output: Tensor,
        lse: Tensor,
        grad_output: Tensor,
        grad_lse: Tensor | None,
        grads: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Fills `grads`, which are as the main tensors; returns those of rpb, additional keys and additional values."""
        like, dtype, rpb = self.like, compute_dtype(self.dtype), self.rpb
        grad_rpb = like.new_empty(0 if rpb is None else rpb.shape, dtype=dtype)
        more = [like.new_empty(0 if tensor is None else tensor.shape) for tensor in self.additional]
        if like.numel():
            results = (lse, None if grad_lse is None else self.keep(grad_lse.to(dtype)), grad_rpb, more)
            head_dim = self._run_backward(self.main, shapes, settings, output, grad_output, grads, results, False)
            if head_dim:
                main = [aligned(tensor, head_dim) for tensor in _apart(self.main)]
                wide = [room(tensor, head_dim) for tensor in main]
                output, grad_output = aligned(output, head_dim), aligned(grad_output, head_dim)
                wide_shapes = [copy.shape for copy in main]
                self._run_backward(main, wide_shapes, settings, output, grad_output, wide, results, True)
                for grad, copy in zip(_apart(grads), wide, strict=True):
                    copy_back(grad, copy)
        else:
            grad_rpb.zero_()
        return grad_rpb if rpb is None else grad_rpb.to(rpb.dtype), more[0], more[1]

    def _run_forward(
        self,
        main: Sequence[Tensor],
        shapes: Sequence[Any],
        settings: Sequence[Any],
        output: Tensor,
        lse: Tensor,
        copies: bool,
    ) -> int:
        given = (*_spans(main), *self.spans_of_more, span(output), span(lse))
        return self._run(kernels().cuda_forward, shapes, settings, copies, given)

    def _run_backward(
        self,
        main: Sequence[Tensor],
        shapes: Sequence[Any],
        settings: Sequence[Any],
        output: Tensor,
        grad_output: Tensor,
        grads: Sequence[Tensor],
        results: tuple[Tensor, Tensor | None, Tensor, Sequence[Tensor]],
        copies: bool,
    ) -> int:
        lse, grad_lse, grad_rpb, more = results
        given = (
            *_spans(main),
            *self.spans_of_more,
            self.span(output),
            span(lse),
            self.span(grad_output),
            span(grad_lse),
            *_spans(grads),
            0 if self.rpb is None else grad_rpb.data_ptr(),
            *(span(grad) if self.has_additional else None for grad in more),
            self.allocate,
        )
        return self._run(kernels().cuda_backward, shapes, settings, copies, given)

    def _run(
        self, kernel: Any, shapes: Sequence[Any], settings: Sequence[Any], copies: bool, given: Sequence[Any]
    ) -> int:
        """Runs the kernels; or returns the head_dim of the copies that are worth making first."""
        handle = make(self.dtype, *shapes, *self.shapes, *hashable(settings))
        device = _device_of(self.like)
        with _on(device):
            head_dim: int = kernel(handle, device, _stream(device), allows_tf32(self.dtype), copies, *given)
        return head_dim

    def _additional_span(self, tensor: Tensor | None) -> tuple[int, ...] | None:
        return self.span(tensor) if self.has_additional and tensor is not None else None


def _choice(problem: Problem, tensors: Sequence[Tensor]) -> Any:
    handle = make(*facts(problem, problem.dtype))
    tf32 = allows_tf32(problem.dtype)
    return kernels().cuda_choice(handle, _device_of(tensors[0]), tf32, *(span(tensor) for tensor in tensors))


def _on(device: int) -> Any:
    """Makes `device` the current one, where it is not."""
    return nullcontext() if torch.cuda.current_device() == device else torch.cuda.device(device)


def _device_of(tensor: Tensor) -> int:
    return tensor.get_device()


def _stream(device: int) -> int:
    stream: int = torch._C._cuda_getCurrentRawStream(device)
    return stream


def _three(packed: Tensor) -> list[tuple[int, ...]]:
    return spans_of_three((packed.data_ptr(), *packed.stride()), packed.itemsize)


def _spans(main: Sequence[Tensor]) -> Sequence[tuple[int, ...] | None]:
    """Address and strides of query, key and value, or of their gradients, which are one tensor or three."""
    return _three(main[0]) if len(main) == 1 else [span(one) for one in main]


def _apart(main: Sequence[Tensor]) -> Sequence[Tensor]:
    """The three of them."""
    return main[0].unbind(-3) if len(main) == 1 else main
