from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import dinat_zoo
import natten_core
from natten_core import NeighborhoodAttention2D

DATA = Path(__file__).parent / "data"
with (DATA / "measured.csv").open() as file:
    MEASURED = {row.pop("model"): {key: int(value) for key, value in row.items()} for row in csv.DictReader(file)}
TRACED = ["nat_mini", "dinat_small", "dinat_s_tiny", "dinat_isotropic_small", "vitrpb_small"]


def test_every_published_model_is_listed() -> None:
    assert set(dinat_zoo.list_models()) == {*MEASURED, "nat_s_tiny", "dinat_pico"}


@pytest.mark.parametrize("name", MEASURED)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    model: Any = timm.create_model(name, device="meta")
    expected = MEASURED[name]
    assert dinat_zoo.count_parameters(model) == expected["params"]
    indices = 12 if name.startswith("vitrpb") else 0  # the authors' models keep a table of them in every block
    assert len(model.state_dict()) == expected["state_dict_tensors"] - indices
    assert model.pretrained_cfg["input_size"] == (3, expected["image_size"], expected["image_size"])
    assert model.num_classes == expected["num_classes"]
    assert dinat_zoo.count_macs(model, expected["image_size"]) == expected["macs"]
    model.reset_classifier(0)
    assert dinat_zoo.count_parameters(model) == expected["params_without_head"]


def test_dilation_changes_no_count() -> None:
    nat, dinat = (timm.create_model(name, device="meta") for name in ("nat_s_tiny", "dinat_s_tiny"))
    assert dinat_zoo.count_parameters(nat) == dinat_zoo.count_parameters(dinat)
    assert dinat_zoo.count_macs(nat, 224) == dinat_zoo.count_macs(dinat, 224)


@pytest.mark.parametrize("left", ["na", "dina", "sa"])
@pytest.mark.parametrize("right", ["na", "dina", "sa"])
def test_hybrids_of_table_6(left: str, right: str) -> None:
    """Half the blocks of one model and half of the other; parameters too."""
    model = timm.create_model("dinat_isotropic_small", device="meta", layer_order=f"{left}-{right}")
    halves = [MEASURED["vitrpb_small" if kind == "sa" else "nat_isotropic_small"] for kind in (left, right)]
    assert 2 * dinat_zoo.count_macs(model, 224) == sum(half["macs"] for half in halves)
    assert 2 * dinat_zoo.count_parameters(model) == sum(half["params"] for half in halves)


@pytest.mark.parametrize("kernel_size", [3, 5, 7, 9, 11, 13])
def test_kernel_sizes(kernel_size: int) -> None:
    """Table 11 and beyond, at a size that needs no padding: k**2 pairs per token and (2k - 1)**2 biases per head."""
    model: Any = timm.create_model("nat_tiny", device="meta", kernel_size=kernel_size)
    blocks, heads = (3, 4, 18, 5), (2, 4, 8, 16)
    biases = sum(count * n * (2 * kernel_size - 1) ** 2 for count, n in zip(blocks, heads, strict=True))
    published = sum(count * n * 13**2 for count, n in zip(blocks, heads, strict=True))
    assert dinat_zoo.count_parameters(model) == 27_901_582 - published + biases
    tokens = [(416 // 4 // 2**i) ** 2 for i in range(4)]
    pairs = sum(count * size * 65 * n for count, size, n in zip(blocks, tokens, heads, strict=True))
    fixed = dinat_zoo.count_macs(timm.create_model("nat_tiny", device="meta"), 416) - 49 * pairs
    assert dinat_zoo.count_macs(model, 416) == fixed + kernel_size**2 * pairs


def self_attention_macs(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Two products of tokens and tokens, as the authors' matmuls."""
    batch, heads, tokens, head_dim = inputs[0].type().sizes()
    return Counter(attention=2 * batch * heads * tokens**2 * head_dim)


def fvcore_macs(model: torch.nn.Module, image: torch.Tensor) -> int:
    from fvcore.nn import FlopCountAnalysis

    with torch.no_grad():
        handles = {"aten::scaled_dot_product_attention": self_attention_macs, **natten_core.flops.fvcore_handles()}
        analysis = FlopCountAnalysis(model, image).set_op_handle(**handles)
        total = analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()
        ignored = set(analysis.unsupported_ops())
    assert not {op for op in ignored if op.startswith("natten_core")}
    return int(total)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated.:FutureWarning")
@pytest.mark.parametrize("name", TRACED)
def test_fvcore_counts_the_published_macs(name: str) -> None:
    model = timm.create_model(name, device="meta").to_empty(device="cpu").eval()
    for parameter in model.parameters():
        parameter.data.zero_()  # what was allocated may hold anything, and denormals are slow
    assert fvcore_macs(model, torch.zeros(1, 3, 224, 224)) == MEASURED[name]["macs"]


@pytest.mark.parametrize("name", ["nat_tiny", "dinat_mini"])
def test_torch_counts_two_operations_for_each_mac(name: str) -> None:
    """Of the products; fvcore also has one per biased score and five per normalised element, which torch leaves out."""
    model = timm.create_model(name, device="meta").to_empty(device="cpu").eval()
    for parameter in model.parameters():
        parameter.data.zero_()
    others = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal others
        if isinstance(module, nn.LayerNorm):
            others += 5 * output.numel()
        elif isinstance(module, NeighborhoodAttention2D):
            height, width = (
                max(n, k * d) for n, k, d in zip(output.shape[1:3], module.kernel_size, module.dilation, strict=True)
            )
            others += height * width * module.num_heads * module.kernel_size[0] * module.kernel_size[1]

    for module in model.modules():
        module.register_forward_hook(count)
    with torch.no_grad(), FlopCounterMode(display=False) as mode:
        model(torch.zeros(1, 3, 224, 224))
    assert mode.get_total_flops() == 2 * (MEASURED[name]["macs"] - others)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated.:FutureWarning")
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("dinat_pico", (28, 28)),
        ("dinat_pico", (9, 33)),
        ("dinat_mini", (100, 132)),
        ("dinat_s_tiny", (70, 97)),
        ("nat_isotropic_small", (100, 132)),
    ],
)
def test_closed_form_equals_fvcore_on_any_size(name: str, size: tuple[int, int]) -> None:
    model = timm.create_model(name).eval()
    image = torch.zeros(1, model.in_chans, *size)
    assert dinat_zoo.count_macs(model, size) == fvcore_macs(model, image)
