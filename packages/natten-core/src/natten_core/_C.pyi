from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

def build_info() -> dict[str, Any]: ...
def window_start(index: int, length: int, kernel_size: int, dilation: int) -> int: ...

class Problem:
    def __init__(
        self,
        dtype: str,
        batch: int,
        heads: int,
        heads_kv: int,
        head_dim: int,
        head_dim_v: int,
        additional: int,
        spatial: Sequence[int],
        kernel_size: Sequence[int],
        stride: Sequence[int],
        dilation: Sequence[int],
        is_causal: Sequence[bool],
        scale: float,
    ) -> None: ...

# Address and strides, of everything but rpb, whose address alone is given.
Strided: TypeAlias = tuple[int, ...] | None

def cpu_forward(
    problem: Problem,
    threads: int,
    query: Strided,
    key: Strided,
    value: Strided,
    rpb: int,
    additional_keys: Strided,
    additional_values: Strided,
    output: Strided,
    lse: Strided,
    /,
) -> None: ...
def cpu_backward(
    problem: Problem,
    threads: int,
    query: Strided,
    key: Strided,
    value: Strided,
    rpb: int,
    additional_keys: Strided,
    additional_values: Strided,
    grad_output: Strided,
    grad_lse: Strided,
    grad_query: Strided,
    grad_key: Strided,
    grad_value: Strided,
    grad_rpb: int,
    grad_additional_keys: Strided,
    grad_additional_values: Strided,
    /,
) -> None: ...
def cpu_qk(
    problem: Problem,
    threads: int,
    query: Strided,
    key: Strided,
    rpb: int,
    additional_keys: Strided,
    scores: Strided,
    /,
) -> None: ...
def cpu_qk_backward(
    problem: Problem,
    threads: int,
    query: Strided,
    key: Strided,
    rpb: int,
    additional_keys: Strided,
    grad_scores: Strided,
    grad_query: Strided,
    grad_key: Strided,
    grad_rpb: int,
    grad_additional_keys: Strided,
    /,
) -> None: ...
def cpu_av(
    problem: Problem, threads: int, attn: Strided, value: Strided, additional_values: Strided, output: Strided, /
) -> None: ...
def cpu_av_backward(
    problem: Problem,
    threads: int,
    attn: Strided,
    value: Strided,
    additional_values: Strided,
    grad_output: Strided,
    grad_attn: Strided,
    grad_value: Strided,
    grad_additional_values: Strided,
    /,
) -> None: ...
def cuda_families() -> list[str]: ...
def cuda_plan(
    problem: Problem,
    architecture: int,
    tensor_cores: bool = ...,
    only: str = ...,
    backward: bool = ...,
    tf32: bool = ...,
) -> tuple[str, list[tuple[str, str]], int]: ...
def cuda_runs_on(built: str, architecture: int) -> bool: ...

# In builds with CUDA.
cuda_architectures: str
cuda_tensor_core_architectures: str

def cuda_devices() -> dict[str, Any]: ...
def cuda_use_only(family: str) -> None: ...
def cuda_choice(
    problem: Problem, device: int, tf32: bool, query: Strided, key: Strided, value: Strided, /
) -> tuple[str, tuple[tuple[str, str], ...]]: ...
def cuda_forward(
    problem: Problem,
    device: int,
    stream: int,
    tf32: bool,
    copies: bool,
    query: Strided,
    key: Strided,
    value: Strided,
    rpb: int,
    additional_keys: Strided,
    additional_values: Strided,
    output: Strided,
    lse: Strided,
    /,
) -> int: ...
def cuda_backward(
    problem: Problem,
    device: int,
    stream: int,
    tf32: bool,
    copies: bool,
    query: Strided,
    key: Strided,
    value: Strided,
    rpb: int,
    additional_keys: Strided,
    additional_values: Strided,
    output: Strided,
    lse: Strided,
    grad_output: Strided,
    grad_lse: Strided,
    grad_query: Strided,
    grad_key: Strided,
    grad_value: Strided,
    grad_rpb: int,
    grad_additional_keys: Strided,
    grad_additional_values: Strided,
    allocate: Callable[[int], int],
    /,
) -> int: ...
def cuda_qk(
    problem: Problem,
    device: int,
    stream: int,
    query: Strided,
    key: Strided,
    rpb: int,
    additional_keys: Strided,
    scores: Strided,
    /,
) -> None: ...
def cuda_qk_backward(
    problem: Problem,
    device: int,
    stream: int,
    query: Strided,
    key: Strided,
    rpb: int,
    additional_keys: Strided,
    grad_scores: Strided,
    grad_query: Strided,
    grad_key: Strided,
    grad_rpb: int,
    grad_additional_keys: Strided,
    allocate: Callable[[int], int],
    /,
) -> None: ...
def cuda_av(
    problem: Problem,
    device: int,
    stream: int,
    attn: Strided,
    value: Strided,
    additional_values: Strided,
    output: Strided,
    /,
) -> None: ...
def cuda_av_backward(
    problem: Problem,
    device: int,
    stream: int,
    attn: Strided,
    value: Strided,
    additional_values: Strided,
    grad_output: Strided,
    grad_attn: Strided,
    grad_value: Strided,
    grad_additional_values: Strided,
    allocate: Callable[[int], int],
    /,
) -> None: ...
