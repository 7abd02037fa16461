from __future__ import annotations

import csv
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import dinat_zoo
import natten_core
from natten_core import NeighborhoodAttention2D

MODELS = [f"nat_{size}" for size in ("mini", "tiny", "small", "base")]
MODELS += [f"dinat_{size}" for size in ("mini", "tiny", "small", "base", "large")]
# The published variants that differ from a registered one in constructor arguments alone.
DERIVED = {
    "dinat_large_384": ("dinat_large", {}),
    "dinat_large_384_11x11": ("dinat_large", {"kernel_size": 11}),
    "dinat_large_21k": ("dinat_large", {"num_classes": 21841}),
    "dinat_large_21k_11x11": ("dinat_large", {"num_classes": 21841, "kernel_size": 11}),  # pads at 224 pixels
}


@pytest.fixture(scope="module")
def measured(data: Path) -> dict[str, dict[str, int]]:
    with (data / "measured.csv").open() as file:
        return {row.pop("model"): {key: int(value) for key, value in row.items()} for row in csv.DictReader(file)}


def test_every_published_model_is_listed() -> None:
    assert set(dinat_zoo.list_models()) == {*MODELS, "dinat_pico"}


@pytest.mark.parametrize("name", [*MODELS, *DERIVED])
def test_parameters_and_macs_are_the_published_ones(name: str, measured: dict[str, dict[str, int]]) -> None:
    base, arguments = DERIVED.get(name, (name, {}))
    model = timm.create_model(base, device="meta", **arguments)
    expected = measured[name]
    assert dinat_zoo.count_parameters(model) == expected["params"]
    assert len(model.state_dict()) == expected["state_dict_tensors"]
    assert dinat_zoo.count_macs(model, expected["image_size"]) == expected["macs"]
    model.reset_classifier(0)
    assert dinat_zoo.count_parameters(model) == expected["params_without_head"]


def fvcore_macs(model: torch.nn.Module, image: torch.Tensor) -> int:
    from fvcore.nn import FlopCountAnalysis

    with torch.no_grad():
        analysis = FlopCountAnalysis(model, image).set_op_handle(**natten_core.flops.fvcore_handles())
        total = analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()
        ignored = set(analysis.unsupported_ops())
    assert not {op for op in ignored if op.startswith("natten_core")}
    return int(total)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated.:FutureWarning")
@pytest.mark.parametrize("name", MODELS)
def test_fvcore_counts_the_published_macs(name: str, measured: dict[str, dict[str, int]]) -> None:
    model = timm.create_model(name, device="meta").to_empty(device="cpu").eval()
    for parameter in model.parameters():
        parameter.data.zero_()  # what was allocated may hold anything, and denormals are slow
    assert fvcore_macs(model, torch.zeros(1, 3, 224, 224)) == measured[name]["macs"]


@pytest.mark.parametrize("name", ["nat_tiny", "dinat_mini"])
def test_torch_counts_two_operations_for_each_mac(name: str, measured: dict[str, dict[str, int]]) -> None:
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
    assert mode.get_total_flops() == 2 * (measured[name]["macs"] - others)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated.:FutureWarning")
@pytest.mark.parametrize(
    ("name", "size"),
    [("dinat_pico", (28, 28)), ("dinat_pico", (9, 33)), ("dinat_mini", (100, 132)), ("nat_mini", (64, 96))],
)
def test_closed_form_equals_fvcore_on_any_size(name: str, size: tuple[int, int]) -> None:
    model = timm.create_model(name).eval()
    image = torch.zeros(1, model.in_chans, *size)
    assert dinat_zoo.count_macs(model, size) == fvcore_macs(model, image)
