from __future__ import annotations

import pytest
import torch
from timm.models.swin_transformer import WindowAttention
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dinat_zoo.analysis import table1
from natten_core import NeighborhoodAttention2D

ROWS = {row.structure: row for row in table1(side=12, dim=32, kernel_size=4, layers=3)}


def macs(module: nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as mode, torch.no_grad():
        module(x)
    return mode.get_total_flops() // 2


def test_flops_are_those_that_torch_counts() -> None:
    """Less the output projection, nd^2, which the table leaves out."""
    projection = 144 * 32**2
    row = table1(12, 32, 3)[3]
    assert macs(NeighborhoodAttention2D(32, 4, 3), torch.zeros(1, 12, 12, 32)) == row.flops + projection
    windows = WindowAttention(32, 4, window_size=4)
    assert macs(windows, torch.zeros(9, 16, 32)) == ROWS["WSA-SWSA"].flops + projection
    whole = WindowAttention(32, 4, window_size=12)
    assert macs(whole, torch.zeros(1, 144, 32)) == ROWS["SA-SA"].flops + projection
    depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
    pointwise = nn.Conv2d(32, 32, 1)
    assert macs(nn.Sequential(depthwise, pointwise), torch.zeros(1, 32, 12, 12)) == table1(12, 32, 3)[0].flops


def test_memory() -> None:
    """Weights of the projections, and of one head's attention."""
    assert ROWS["NA-DiNA"].memory == nn.Linear(32, 96, bias=False).weight.numel() + 144 * 16
    assert ROWS["SA-SA"].memory == 3 * 32**2 + 144**2
    depthwise, pointwise = nn.Conv2d(32, 32, 4, groups=32, bias=False), nn.Conv2d(32, 32, 1, bias=False)
    assert ROWS["DWSConv-DWSConv"].memory == depthwise.weight.numel() + pointwise.weight.numel()


def test_receptive_fields_are_bounded_by_the_axis() -> None:
    fields = {name: (row.field_min, row.field_max) for name, row in ROWS.items()}
    assert fields == {
        "DWSConv-DWSConv": (10, 10),
        "WSA-WSA": (4, 4),
        "WSA-SWSA": (12, 12),
        "NA-NA": (10, 10),
        "NA-DiNA": (10, 12),  # of 64
        "SA-SA": (12, 12),
    }


def test_errors() -> None:
    with pytest.raises(ValueError, match="kernel_size is 9; it must be at most side, 7"):
        table1(7, 64, 9)
    with pytest.raises(ValueError, match="layers is 0; it must be at least 1"):
        table1(7, 64, 7, layers=0)
