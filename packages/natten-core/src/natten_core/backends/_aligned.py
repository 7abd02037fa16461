"""Copies in rows of whole 16-byte chunks, for the CUDA kernels that read nothing else."""

from __future__ import annotations

from torch import Tensor


def aligned(tensor: Tensor, head_dim: int) -> Tensor:
    """[..., d] as a contiguous copy [..., head_dim], with zeros behind."""
    copy = room(tensor, head_dim)
    copy[..., tensor.shape[-1] :].zero_()
    copy[..., : tensor.shape[-1]].copy_(tensor)
    return copy


def room(tensor: Tensor, head_dim: int) -> Tensor:
    """Memory for what will be copied to the tensor, [..., d], as [..., head_dim]."""
    return tensor.new_empty((*tensor.shape[:-1], head_dim))


def copy_back(tensor: Tensor, copy: Tensor) -> None:
    """Fills the tensor, [..., d], from [..., head_dim]."""
    tensor.copy_(copy[..., : tensor.shape[-1]])
