"""COCO's run lengths of masks, column by column, the first run counting zeros, and their compressed text."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor


class Rle(TypedDict):
    """A mask as run lengths.

    Attributes:
        size: height and width.
        counts: the compressed run lengths.
    """

    size: list[int]
    counts: str


def encode(mask: Tensor) -> Rle:
    """Encode a mask `[H, W]`, whose elements count as set where they are not 0.

    The counts are what COCO's own tools write: each as groups of five bits, lowest first, with a sixth bit where more
    follow, in characters from "0"; from the fourth on it is the difference to the one before the last.
    """
    flat = (mask != 0).t().flatten()
    edges = torch.nonzero(flat[1:] != flat[:-1])[:, 0].add(1).tolist()
    starts = [0, *edges] if not (len(flat) and bool(flat[0])) else [0, 0, *edges]
    counts = [end - start for start, end in zip(starts, [*starts[1:], len(flat)], strict=True)]
    text = ""
    for i, count in enumerate(counts):
        text += _compress(count - counts[i - 2] if i > 2 else count)
    return {"size": list(mask.shape), "counts": text}


def decode(rle: Rle) -> Tensor:
    """The mask `[H, W]`, bool, that `encode` was given."""
    height, width = rle["size"]
    counts: list[int] = []
    value = shift = 0
    for character in rle["counts"]:
        group = ord(character) - 48
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            value -= (group & 16) and 1 << shift  # the last group's highest bit is the sign
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    lengths = torch.tensor(counts)
    if int(lengths.sum()) != height * width:
        raise ValueError(f"rle has runs of {int(lengths.sum())} pixels together, for a size of {height}x{width}.")
    return (torch.arange(len(counts)) % 2 == 1).repeat_interleave(lengths).view(width, height).t()


def _compress(value: int) -> str:
    text = ""
    while True:
        group, value = value & 31, value >> 5
        done = value == (-1 if group & 16 else 0)
        text += chr(48 + group + (0 if done else 32))
        if done:
            return text
