"""What timm's own test suite asks of every model, and a little more."""

from __future__ import annotations

import copy
import fnmatch
import re
import sys
from typing import Any

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

import dinat_zoo
from dinat_zoo._blocks import Block

SMALL: dict[str, dict[str, Any]] = {
    "nat_small": {"embed_dim": 32, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 4, 8), "kernel_size": 3},
    "dinat_mini": {
        "embed_dim": 32,
        "depths": (1, 2, 2, 1),
        "num_heads": (1, 2, 4, 8),
        "kernel_size": 3,
        "dilations": ((2,), (1, 4), (1, 2), (1,)),
    },
    "dinat_pico": {},
    "dinat_s_tiny": {"embed_dim": 32, "depths": (1, 2, 2, 1), "num_heads": (1, 2, 4, 8), "kernel_size": 3},
    "dinat_isotropic_small": {"embed_dim": 64, "depth": 4, "num_heads": 2, "kernel_size": 3},
    "vitrpb_small": {"embed_dim": 64, "depth": 4, "num_heads": 2, "img_size": (96, 64)},
}
small_models = pytest.mark.parametrize("name", SMALL)
all_models = pytest.mark.parametrize("name", dinat_zoo.list_models())


def create(name: str, **arguments: Any) -> Any:
    return timm.create_model(name, **{**SMALL[name], **arguments})


def blocks(model: Any) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]


def image(model: Any, batch: int = 2, **arguments: Any) -> Tensor:
    size = (28, 28) if model.in_chans == 1 else (96, 64)
    return torch.randn(batch, model.in_chans, *size, **arguments)


@all_models
def test_listed_by_timm(name: str) -> None:
    assert name in timm.list_models()
    assert timm.is_model(name)
    module = sys.modules[timm.model_entrypoint(name).__module__]
    assert name in module.__all__
    assert name in module.VARIANTS
    cfg = timm.get_pretrained_cfg(name)
    assert f"{name}.{cfg.tag}" in timm.list_models(include_tags=True)
    assert (cfg.tag == "untrained") == (not cfg.has_weights)


@all_models
def test_structure_on_the_meta_device(name: str) -> None:
    """Configuration, head and feature metadata of the real models, without allocating one."""
    model = timm.create_model(name, device="meta", dtype=torch.bfloat16)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    assert {tensor.device.type for _, tensor in tensors} == {"meta"}
    assert {tensor.dtype for _, tensor in tensors} == {torch.bfloat16}
    cfg = model.pretrained_cfg
    assert model.in_chans == cfg["input_size"][0]
    assert model.num_classes == cfg["num_classes"]
    assert f"{cfg['first_conv']}.weight" in model.state_dict()
    assert f"{cfg['classifier']}.weight" in model.state_dict()
    for info in model.feature_info:
        [*_, last] = blocks(model.get_submodule(info["module"]))
        assert last.norm1.normalized_shape == (info["num_chs"],)
    assert model.num_features == info["num_chs"] == model.norm.normalized_shape[0]
    assert cfg["pool_size"] == tuple(-(-side // info["reduction"]) for side in cfg["input_size"][1:])


@small_models
def test_shapes_on_the_meta_device(name: str) -> None:
    model = create(name, device="meta", dtype=torch.bfloat16).eval()
    cfg = model.pretrained_cfg
    size = (96, 64) if cfg["fixed_input_size"] else cfg["input_size"][1:]
    features = model.forward_features(torch.empty(2, model.in_chans, *size, device="meta", dtype=torch.bfloat16))
    reduction = model.feature_info[-1]["reduction"]
    assert features.shape == (2, *(-(-side // reduction) for side in size), model.num_features)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    assert model.forward_head(features).shape == (2, model.num_classes)


@all_models
def test_unknown_arguments_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match="not_a_model_arg"):
        timm.create_model(name, device="meta", not_a_model_arg=1)


@all_models
def test_parameter_groups(name: str) -> None:
    model = timm.create_model(name, device="meta")
    names = {key for key, _ in model.named_parameters()}
    depth = len(blocks(model))
    fine = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert fine.keys() == coarse.keys() == names
    # Stem, downsampling layers with the block that follows, blocks, and the end.
    assert len(set(fine.values())) >= depth + 2
    assert len(set(coarse.values())) == len(model.levels) + 2
    first = next(key for key in names if re.match(r"levels\.0\.(blocks\.0\.)?norm1", key))
    order = [fine["patch_embed.norm.weight"], fine[first], fine["head.fc.weight"]]
    assert order == sorted(set(order))

    exempt = model.no_weight_decay()
    assert exempt
    assert all(any(fnmatch.fnmatch(key, pattern) for key in names) for pattern in exempt)
    assert all(key.endswith("attn.rpb") for key in exempt)


def test_optimizer_factory_honours_decay_and_layer_wise_rates() -> None:
    model = create("dinat_mini")
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    scales = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[id(model.levels[0].blocks[0].attn.rpb)] == 0
    assert decays[id(model.levels[0].blocks[0].attn.qkv.weight)] == 0.05
    assert scales[id(model.patch_embed.proj[0].weight)] < scales[id(model.levels[2].blocks[0].attn.qkv.weight)] < 1


@small_models
def test_every_parameter_gets_a_gradient_and_checkpointing_changes_nothing(name: str) -> None:
    model = create(name, num_classes=42, drop_path_rate=0.0)
    model.train()
    batch = image(model)
    gradients = []
    outputs = []
    for enabled in (False, True):
        model.set_grad_checkpointing(enabled)
        model.zero_grad()
        output = model(batch)
        output.square().mean().backward()
        assert not [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        outputs.append(output.detach())
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert outputs[0].shape == (2, 42)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_checkpointing_recomputes_instead_of_keeping() -> None:
    model = create("dinat_mini", drop_path_rate=0.0).train()
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    model.levels[2].blocks[1].attn.register_forward_pre_hook(count)
    model.set_grad_checkpointing()
    model(image(model)).sum().backward()
    assert calls == 2


@small_models
def test_bfloat16_end_to_end(name: str) -> None:
    model = create(name).eval()
    batch = image(model)
    with torch.no_grad():
        exact = model(batch)
        model.to(torch.bfloat16)
        rounded = model(batch.to(torch.bfloat16))
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.1, atol=0.1 * exact.abs().max().item())


@small_models
def test_dtype_of_construction(name: str) -> None:
    model = create(name, dtype=torch.float64).eval()
    assert model(image(model, dtype=torch.float64)).dtype == torch.float64


@small_models
def test_reset_classifier(name: str) -> None:
    model = create(name, dtype=torch.float64, global_pool="max").eval().requires_grad_(False)
    batch = image(model, dtype=torch.float64)
    features = model.forward_features(batch)
    pooled = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, features.amax((1, 2)))

    model.reset_classifier(0)
    assert model.num_classes == 0
    assert not any(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(model(batch), pooled)

    model.reset_classifier(3)
    assert model.get_classifier().weight.dtype == torch.float64
    assert not any(module.training for module in model.modules())
    assert model(batch).shape == (2, 3)
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), pooled)

    model.reset_classifier(3, "avg")
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), features.mean((1, 2)))
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(batch), features)

    model.to(device="meta")
    model.reset_classifier(2)
    assert model.get_classifier().weight.device.type == "meta"


@small_models
def test_headless_construction_equals_reset(name: str) -> None:
    model = create(name, num_classes=0).eval()
    batch = image(model)
    assert model(batch).shape == (2, model.head_hidden_size)
    assert create(name, num_classes=0, global_pool="").eval()(batch).ndim == 4
    double = create(name, num_classes=0, global_pool="catavgmax")
    assert double(batch).shape == (2, double.head_hidden_size) == (2, 2 * double.num_features)


@small_models
def test_features_only_gives_nchw_maps(name: str) -> None:
    model = create(name, features_only=True).eval()
    batch = image(model.model)
    outputs = model(batch)
    height, width = batch.shape[-2:]
    assert len(outputs) == len(model.feature_info.channels()) == 4 - (name == "dinat_pico")
    for output, channels, reduction in zip(
        outputs, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        assert output.shape == (2, channels, -(-height // reduction), -(-width // reduction))
        assert output.is_contiguous()
        assert output.isfinite().all()


def test_features_only_takes_out_indices() -> None:
    model = create("dinat_mini", features_only=True, out_indices=(1, -2))
    assert model.feature_info.channels() == [64, 128]
    assert [output.shape[1] for output in model(torch.randn(1, 3, 64, 64))] == [64, 128]


@small_models
def test_intermediates(name: str) -> None:
    model = create(name).eval()
    batch = image(model)
    with torch.no_grad():
        final, outputs = model.forward_intermediates(batch)
        torch.testing.assert_close(final, model.forward_features(batch), rtol=1e-5, atol=1e-8)
        assert len(outputs) == len(model.levels)
        nhwc = model.forward_intermediates(batch, output_fmt="NHWC", intermediates_only=True)
        torch.testing.assert_close([o.permute(0, 3, 1, 2) for o in nhwc], outputs)
        normed = model.forward_intermediates(batch, indices=1, norm=True, intermediates_only=True)
        torch.testing.assert_close(normed[0], final.permute(0, 3, 1, 2))
        first, [output] = model.forward_intermediates(batch, indices=[0], stop_early=True)
        torch.testing.assert_close(output, outputs[0])
        torch.testing.assert_close(first.permute(0, 3, 1, 2), outputs[0])


@pytest.mark.parametrize("indices", [0, 5, [4], [-5], []])
def test_bad_indices_name_the_levels(indices: Any) -> None:
    with pytest.raises(ValueError, match="4 levels"):
        create("dinat_mini").forward_intermediates(torch.zeros(1, 3, 32, 32), indices=indices)


def test_bad_output_format() -> None:
    with pytest.raises(ValueError, match=r"'NLC'.*'NCHW' or 'NHWC'"):
        create("dinat_mini").forward_intermediates(torch.zeros(1, 3, 32, 32), output_fmt="NLC")


@small_models
def test_pruning(name: str) -> None:
    """Pruned taps are the unpruned model's; nothing unused is left; the pruned model still runs."""
    model = create(name).eval()
    batch = image(model)
    last = len(model.levels) - 1
    with torch.no_grad():
        expected = model(batch)
        taps = model.forward_intermediates(batch, intermediates_only=True)
        pruned = copy.deepcopy(model)
        pruned.prune_intermediate_layers([last], prune_head=False)
        torch.testing.assert_close(pruned(batch), expected)
    for i in range(last + 1):
        pruned = copy.deepcopy(model)
        kept = pruned.prune_intermediate_layers([i - last - 1], prune_norm=True)
        assert kept == [i]
        assert pruned.num_features == model.feature_info[i]["num_chs"]
        features = pruned.forward_features(batch)
        torch.testing.assert_close(features.permute(0, 3, 1, 2), taps[i])
        pruned.train()
        [tap] = pruned.forward_intermediates(batch, indices=kept, intermediates_only=True)
        tap.sum().backward()
        assert not [key for key, p in pruned.named_parameters() if p.grad is None]


@small_models
def test_init_weights_after_to_empty(name: str) -> None:
    model = create(name, device="meta", dtype=torch.float64).to_empty(device="cpu").eval()
    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)  # so that a missed one shows
    torch.manual_seed(0)
    model.init_weights()
    assert all(p.isfinite().all() for p in model.parameters())
    block = blocks(model)[0]
    assert block.norm1.weight.eq(1).all()
    assert block.attn.qkv.bias.eq(0).all()
    for tensor in (block.attn.rpb, block.attn.qkv.weight, model.head.fc.weight):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.25)
    if name == "nat_small":
        assert block.gamma1.eq(1e-5).all()
        assert block.gamma2.eq(1e-5).all()
    assert model(image(model, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize("train", [False, True])
@small_models
def test_fx_tracing(name: str, train: bool) -> None:
    from timm.models import FeatureGraphNet

    model = create(name, drop_path_rate=0.0).train(train)
    batch = image(model)
    expected = model.levels(model.patch_embed(batch))
    model.feature_info = [model.feature_info[-1]]
    graph = FeatureGraphNet(copy.deepcopy(model), out_indices=(0,)).train(train)
    [output] = graph(batch)
    torch.testing.assert_close(output, expected)
    output.sum().backward()
    assert all(p.grad is not None for key, p in graph.named_parameters() if ".levels." in key)


@pytest.mark.filterwarnings("ignore:`torch.jit.[a-z_]*` is deprecated.:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.[a-z_]*` is deprecated.:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@small_models
def test_torchscript(name: str) -> None:
    model = create(name).eval()
    batch = image(model)
    with torch.no_grad():
        expected = model(batch)
        scripted, traced = torch.jit.script(model), torch.jit.trace(model, batch)
        torch.testing.assert_close(scripted(batch), expected)
        torch.testing.assert_close(traced(batch), expected)
        if not model.pretrained_cfg["fixed_input_size"]:
            larger = nn.functional.pad(batch, (0, 32, 0, 64))
            torch.testing.assert_close(scripted(larger), model(larger))


@small_models
def test_compile_without_graph_breaks(name: str) -> None:
    model = create(name).eval()
    batch = image(model)
    torch.compiler.reset()  # else the sizes of the test before make these symbolic
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(batch), model(batch))


@pytest.mark.filterwarnings("ignore:`torch.jit.[a-z_]*` is deprecated.:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.[a-z_]*` is deprecated.:DeprecationWarning")
@small_models
def test_torchscript_of_feature_maps(name: str) -> None:
    model = create(name, features_only=True).eval()
    batch = image(create(name))
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(model)(batch), model(batch))


def test_stochastic_depth_and_dropout_act_in_training_only() -> None:
    model = create("dinat_mini", drop_rate=0.5, proj_drop_rate=0.1, drop_path_rate=0.5).train()
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for level in model.levels for block in level.blocks]
    assert rates == pytest.approx([0.5 * i / (len(rates) - 1) for i in range(len(rates))])
    batch = image(model)
    with torch.no_grad():
        assert not model(batch).equal(model(batch))
        model.eval()
        assert model(batch).equal(model(batch))


def test_attention_dropout_trains() -> None:
    model = create("dinat_pico", attn_drop_rate=0.3).train()
    model(image(model)).sum().backward()
    assert model.levels[0].blocks[0].attn.rpb.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depths": (1, 1, 1)}, r"num_heads is \(1, 2, 4, 8\), for 4 levels; depths=\(1, 1, 1\) has 3"),
        ({"kernel_size": (3, 5)}, r"kernel_size is \(3, 5\), for 2 levels"),
        ({"dilations": ((1,), (1,), (1, 1), (1,))}, r"dilations\[1\] is \(1,\), for 1 blocks; depths\[1\] is 2"),
        ({"num_heads": (3, 2, 4, 8)}, r"num_heads\[0\] is 3, which does not divide level 0's 32 channels"),
    ],
)
def test_arguments_that_do_not_fit_together(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create("dinat_mini", **arguments)


def test_arguments_per_level() -> None:
    model = create("dinat_mini", kernel_size=(7, 5, 3, 3))
    assert [level.blocks[0].attn.kernel_size[0] for level in model.levels] == [7, 5, 3, 3]
    assert [block.attn.dilation for block in model.levels[1].blocks] == [(1, 1), (4, 4)]


def test_nat_is_dinat_without_dilation() -> None:
    nat, dinat = (timm.create_model(name, device="meta") for name in ("nat_tiny", "dinat_tiny"))
    assert {m.dilation for m in nat.modules() if hasattr(m, "dilation") and not isinstance(m, nn.Conv2d)} == {(1, 1)}
    assert {key: p.shape for key, p in nat.named_parameters()} == {key: p.shape for key, p in dinat.named_parameters()}
    third = [block.attn.dilation[0] for block in dinat.levels[2].blocks]
    assert third == [1, 2] * 9
