from typing import Any, TypeAlias

Sizes: TypeAlias = tuple[int, int, int]
# Address; strides, in elements, of batch, z, y, x and heads.
Span: TypeAlias = tuple[int, int, int, int, int, int]

def build_info() -> dict[str, Any]: ...
def window_start(index: int, length: int, kernel_size: int, dilation: int) -> int: ...
def na_forward(
    dtype: str,
    batch: int,
    heads: int,
    head_dim: int,
    spatial: Sizes,
    kernel_size: Sizes,
    dilation: Sizes,
    scale: float,
    query: Span,
    key: Span,
    value: Span,
    rpb: int,
    output: Span,
    lse: Span,
    threads: int,
    /,
) -> None: ...
def na_backward(
    dtype: str,
    batch: int,
    heads: int,
    head_dim: int,
    spatial: Sizes,
    kernel_size: Sizes,
    dilation: Sizes,
    scale: float,
    query: Span,
    key: Span,
    value: Span,
    rpb: int,
    grad_output: Span,
    grad_lse: Span | None,
    grad_query: Span,
    grad_key: Span,
    grad_value: Span,
    grad_rpb: int,
    threads: int,
    /,
) -> None: ...
