from __future__ import annotations

import itertools

import numpy as np
import pytest
import timm
import torch
from torch import nn

from dinat_zoo.analysis import measured_fields, receptive_fields
from dinat_zoo.analysis.axis import Convolution, Neighborhood, Window, compose, unbounded


def test_gradients_find_the_pixels_of_the_theory(small: tuple[nn.Module, int | tuple[int, int]]) -> None:
    """Every layer, at the middle, corners and an edge of its map: no pixel more and none less."""
    model, size = small
    for position in [(0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.3, 0.8)]:
        fields = receptive_fields(model, size, position)
        measured = measured_fields(model, size, position, [field.layer for field in fields])
        for field in fields:
            np.testing.assert_array_equal(measured[field.layer], field.pixels, err_msg=f"{field.layer} {position}")
    assert any(field.share < 0.5 for field in fields)


def test_every_token_of_a_dilated_map() -> None:
    torch.manual_seed(0)
    model = timm.create_model("dinat_pico", depths=(1, 1, 0), layer_order="dina", dilations=(2, 1, 1), kernel_size=3)
    last = receptive_fields(model, 28)[-1]
    for y, x in itertools.product(range(last.map_size[0]), range(last.map_size[1])):
        position = ((y + 0.5) / last.map_size[0], (x + 0.5) / last.map_size[1])
        field = receptive_fields(model, 28, position)[-1]
        np.testing.assert_array_equal(measured_fields(model, 28, position)[last.layer], field.pixels)


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = timm.create_model("convnext_atto", depths=(1, 1, 1, 1), ls_init_value=1e-6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measured_fields(model, 32)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("kernel_size", [3, 7])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_growth_of_table_1(kernel_size: int, layers: int) -> None:
    """Section 3.3: l(k - 1) + 1 for convolutions and NA, lk for shifted windows, k^l where dilations grow gradually."""
    plain = layers * (kernel_size - 1) + 1
    rows = {
        plain: [Neighborhood(kernel_size)] * layers,
        kernel_size**layers: [Neighborhood(kernel_size, kernel_size**i) for i in reversed(range(layers))],
        layers * kernel_size: [Window(kernel_size, i % 2 * (kernel_size // 2)) for i in range(layers)],
    }
    for expected, stack in rows.items():
        first, last = unbounded(stack, position=500)
        assert last - first + 1 == expected
        seen = np.eye(1001, dtype=bool)
        for layer in stack:
            seen = compose(layer.reach(1001), seen)
        assert seen[500].sum() == expected
    convolutions = [Convolution(kernel_size, padding=kernel_size // 2)] * layers
    first, last = unbounded(convolutions, position=500)
    assert last - first + 1 == plain


def test_fields_of_the_published_models() -> None:
    """The dilated model sees further than the plain one at every depth, as in Figure 5."""
    nat, dinat = (receptive_fields(timm.create_model(f"{n}_mini", device="meta"), 224) for n in ("nat", "dinat"))
    tokenizer = 7  # two 3x3 convolutions of stride 2
    assert [field.extent[0] for field in nat[:5]] == [3, tokenizer, 7 + 6 * 4, 7 + 12 * 4, 7 + 18 * 4]
    assert [field.extent[0] for field in dinat[:5]] == [3, tokenizer, 7 + 6 * 4, 7 + 54 * 4, 7 + 60 * 4]
    assert dinat[3].keys == (7, 7)
    assert all(wide.share >= narrow.share for wide, narrow in zip(dinat, nat, strict=True))
    assert nat[-1].stride == (32, 32)
    assert nat[-1].map_size == (7, 7)


def test_errors() -> None:
    model = timm.create_model("nat_mini", device="meta")
    with pytest.raises(TypeError, match="model is a ResNet; it must be"):
        receptive_fields(timm.create_model("resnet18", device="meta"), 224)
    with pytest.raises(ValueError, match=r"position has 1.5; it must be between 0 and 1"):
        receptive_fields(model, 224, (0.5, 1.5))
    with pytest.raises(ValueError, match="image_size is 0; it must be at least 1"):
        receptive_fields(model, 0)
    with pytest.raises(ValueError, match="the meta device"):
        measured_fields(model, 224)
    with pytest.raises(ValueError, match=r"names has 'levels\.9', which is no spatial layer"):
        measured_fields(model, 224, names=["levels.9"])
    swin = timm.create_model("swin_tiny_patch4_window7_224", device="meta")
    with pytest.raises(ValueError, match=r"image_size is \(256, 256\), the model is for \(224, 224\)"):
        receptive_fields(swin, 256)
