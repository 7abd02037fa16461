"""OneFormer with transformers' heads; `nox -s dense_clients` installs transformers.

That our backbone in it is DiNAT as transformers has it is tested by `nox -s compat`, in tests/test_stranded_clients.py.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dinat_zoo import WeightsError, dense, dilations
from dinat_zoo._formats import convert
from dinat_zoo._pretrained import published
from dinat_zoo.dense import oneformer
from dinat_zoo.dense.queries import look

BODY: dict[str, Any] = {"embed_dim": 16, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 4, 8), "kernel_size": 3}
BODY |= {"dilations": ((2,), (1, 3), (1,), (1,)), "drop_path_rate": 0.0}
HEADS: dict[str, Any] = {
    "hidden_dim": 64, "conv_dim": 64, "mask_dim": 64, "encoder_feedforward_dim": 24, "dim_feedforward": 40,
    "encoder_layers": 2, "decoder_layers": 4, "num_attention_heads": 2, "num_queries": 6, "train_num_points": 32,
    "text_encoder_width": 64, "text_encoder_num_layers": 2, "text_encoder_vocab_size": 50, "text_encoder_n_ctx": 2,
}  # fmt: skip
NAME = "oneformer_dinat_large_cityscapes"
INSIDE = "model.pixel_level_module.encoder."

# The authors' names beside the backbone's; `{}` runs over what is beside it, `N` over the layers of the small model.
BOTH = ("weight", "bias")
ATTENTION = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
PIXEL, PREDICTOR = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."
QUERIES = f"{PREDICTOR}class_transformer.decoder."
PARTS = ("linear1", "linear2", "norm1", "norm2", "norm3")
DEFORMABLE = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
KEYS: dict[str, tuple[Any, ...]] = {
    PIXEL + "input_proj.{}.{}.{}": ("012", "01", BOTH),
    PIXEL + "transformer.level_embed": (),
    PIXEL + "transformer.encoder.layers.{}.self_attn.{}.{}": ("01", DEFORMABLE, BOTH),
    PIXEL + "transformer.encoder.layers.{}.{}.{}": ("01", PARTS[:4], BOTH),
    PIXEL + "mask_features.{}": (BOTH,),
    PIXEL + "{}.{}": (("adapter_1", "layer_1"), ("weight", "norm.weight", "norm.bias")),
    QUERIES + "layers.{}.{}.{}": ("01", ("self_attn", "multihead_attn"), ATTENTION),
    QUERIES + "layers.{}.{}": ("01", [f"{part}.{leaf}" for part in PARTS for leaf in BOTH]),
    QUERIES + "norm.{}": (BOTH,),
    PREDICTOR + "transformer_self_attention_layers.{}.self_attn.{}": ("012", ATTENTION),
    PREDICTOR + "transformer_cross_attention_layers.{}.multihead_attn.{}": ("012", ATTENTION),
    PREDICTOR + "{}.{}.norm.{}": (
        ("transformer_self_attention_layers", "transformer_cross_attention_layers", "transformer_ffn_layers"),
        "012",
        BOTH,
    ),
    PREDICTOR + "transformer_ffn_layers.{}.{}.{}": ("012", ("linear1", "linear2"), BOTH),
    PREDICTOR + "{}.{}": (("decoder_norm", "class_input_proj", "class_embed"), BOTH),
    PREDICTOR + "{}.weight": (("query_embed", "level_embed"),),
    PREDICTOR + "mask_embed.layers.{}.{}": ("012", BOTH),
    "task_mlp.layers.{}.{}": ("01", BOTH),
    "criterion.{}": (("empty_weight", "logit_scale"),),
}
TEXT_KEYS: dict[str, tuple[Any, ...]] = {
    "text_encoder.{}": (("positional_embedding", "token_embedding.weight", "ln_final.weight", "ln_final.bias"),),
    "text_encoder.transformer.resblocks.{}.{}.{}": ("01", ("ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj"), BOTH),
    "text_encoder.transformer.resblocks.{}.attn.{}": ("01", ATTENTION),
    "text_projector.layers.{}.{}": ("01", BOTH),
    "prompt_ctx.weight": (),
}

Create = Callable[..., Any]


def keys(patterns: dict[str, tuple[Any, ...]]) -> set[str]:
    return {pattern.format(*parts) for pattern, choices in patterns.items() for parts in itertools.product(*choices)}


@pytest.fixture
def small() -> Create:
    """Makes a model with the structure of a published one, but small; no two of its parameters are alike."""
    pytest.importorskip("transformers", minversion="5")
    pytest.importorskip("scipy")

    def create(checkpoint: Path | None = None, heads: dict[str, Any] | None = None, **arguments: Any) -> Any:
        model = oneformer.create(NAME, checkpoint, heads={**HEADS, **(heads or {})}, **{**BODY, **arguments}).eval()
        if checkpoint is None:
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
        return model

    return create


def on_the_hub(model: Any) -> dict[str, Tensor]:
    """A model's weights under the names that transformers' DiNAT has in it."""
    weights: dict[str, Tensor] = model.state_dict()
    body = {key.removeprefix(f"{INSIDE}body."): x for key, x in weights.items() if key.startswith(INSIDE)}
    heads = {key: value for key, value in weights.items() if not key.startswith(INSIDE)}
    return {**{INSIDE + key: value for key, value in convert(body, "hf", "dinat").items()}, **heads}


@pytest.mark.parametrize("name", oneformer.list_models())
def test_published_sizes(name: str) -> None:
    """The authors' table has 223 million parameters for all seven."""
    pytest.importorskip("transformers", minversion="5")
    pytest.importorskip("scipy")
    model = oneformer.create(name, device="meta")
    row = next(row for row in published() if row.checkpoint == name)
    # Without the text encoder, which the authors count for training alone, and with 133 classes or 150.
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == 223
    assert model.config.num_labels == row.classes
    assert model.config.num_queries == (150 if "coco" in name else 250)
    levels = model.model.pixel_level_module.encoder.body.levels
    found = tuple(tuple(block.attn.dilation[0] for block in level.blocks) for level in levels)
    kernel = 7 if row.dataset == "cityscapes" else 11
    assert levels[0].blocks[0].attn.rpb.shape == (6, 2 * kernel - 1, 2 * kernel - 1)
    known = {("ade20k", 1280): ("oneformer-ade20k", 1280), ("cityscapes", 512): ("oneformer-cityscapes", None)}
    assert found == dilations.published((3, 4, 18, 5), *known.get((row.dataset, row.height), ("oneformer-coco", None)))


def test_every_published_name_has_its_place(small: Create, data: Path) -> None:
    """The authors' names; and those that transformers 4.53 writes, in which the files on the hub are."""
    model = small()
    theirs = {key for key in oneformer.from_transformers(model.state_dict()) if not key.startswith("backbone.")}
    assert theirs == keys(KEYS)
    trained = small(heads={"is_training": True})
    theirs = {key for key in oneformer.from_transformers(trained.state_dict()) if not key.startswith("backbone.")}
    assert theirs == keys({**KEYS, **TEXT_KEYS})
    on_hub = json.loads((data / "oneformer-hf-keys.json").read_text())
    assert {key: list(value.shape) for key, value in on_the_hub(model).items()} == on_hub


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("form", ["authors", "hub", "ours"])
def test_a_published_file_loads_strictly(small: Create, tmp_path: Path, form: str, training: bool) -> None:
    torch.manual_seed(0)
    model = small(heads={"is_training": training})
    rename = {"authors": lambda x: oneformer.from_transformers(x.state_dict()), "hub": on_the_hub}
    weights = rename.get(form, lambda x: x.state_dict())(model)
    file = tmp_path / "published.pth"

    def saved(changed: dict[str, Tensor]) -> Path:
        torch.save({"model": changed, "iteration": 90000} if form == "authors" else changed, file)
        return file

    loaded = small(saved(weights), heads={"is_training": training})
    assert model.state_dict().keys() == loaded.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key
    alone = small(file)  # the text encoder is for training
    assert not any("text_mapper" in key for key in alone.state_dict())
    with pytest.raises(WeightsError, match=r"other\.weight"):
        small(saved({**weights, "sem_seg_head.other.weight": torch.ones(1)}))
    del weights[next(key for key in weights if (key.endswith("norm2.bias") and "class" in key) or "query_tr" in key)]
    with pytest.raises(WeightsError, match=r"missing: model\.transformer_module\.decoder\.query_transformer"):
        small(saved(weights))


def test_wrong_shapes(small: Create, tmp_path: Path) -> None:
    weights = on_the_hub(small())
    key = "model.task_encoder.task_mlp.layers.0.0.weight"
    weights[key] = weights[key][:, :50]
    torch.save(weights, tmp_path / "published.pth")
    with pytest.raises(WeightsError, match=rf"sizes: {key} is \[64, 50\], not \[64, 77\]"):
        small(tmp_path / "published.pth")


def test_the_task_decides(small: Create) -> None:
    torch.manual_seed(0)
    model = small()
    model.load_state_dict(oneformer.create(NAME, heads=HEADS, **BODY).state_dict())  # as created, nothing saturates
    batch = dense.ImageTransform(longest=96, shortest=64)([torch.randint(256, (3, 50, 75), dtype=torch.uint8)])
    with torch.no_grad():
        found = [look(model, batch, task)[0] for task in oneformer.TASKS]
    assert all(one.classes.shape == (6, 20) and one.masks.shape == (6, 16, 24) for one in found)
    assert all((one.classes - other.classes).abs().max() > 1e-5 for one, other in itertools.combinations(found, 2))
    assert found[0].semantic().shape == (19, 50, 75)
    assert found[2].panoptic(dense.things("cityscapes"), 0.0, 0.0).segments.shape == (50, 75)


def test_transformers_saves_and_loads_it(small: Create, tmp_path: Path) -> None:
    from transformers import OneFormerForUniversalSegmentation

    model = small()
    assert model.config.id2label[0] == "road"
    model.save_pretrained(tmp_path)
    loaded = OneFormerForUniversalSegmentation.from_pretrained(tmp_path).eval()
    assert model.state_dict().keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    image, task = torch.randn(1, 3, 64, 96), oneformer.task_inputs("semantic")
    with torch.no_grad():
        found, expected = (one(image, task).masks_queries_logits for one in (loaded, model))
    assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_other_classes_train(small: Create) -> None:
    model = small(num_classes=3, heads={"is_training": True}).train()
    output = model(
        torch.randn(1, 3, 64, 96),
        oneformer.task_inputs("panoptic"),
        text_inputs=torch.randint(50, (1, 4, 77)),  # 4 texts and 2 of context for 6 queries
        mask_labels=[torch.randint(2, (2, 64, 96)).float()],
        class_labels=[torch.tensor([0, 2])],
    )
    output.loss.sum().backward()
    assert output.loss.isfinite().all()
    assert all(parameter.grad is not None for parameter in model.model.pixel_level_module.encoder.parameters())
    assert all(parameter.grad is not None for parameter in model.model.text_mapper.parameters())


def test_tasks_are_their_tokenizers(tmp_path: Path) -> None:
    """On as much of CLIP's vocabulary as the sentences need, with its numbers and in the order of its merges."""
    transformers = pytest.importorskip("transformers", minversion="5")
    merges = [
        "i n", "a n", "t h", "e </w>", "th e</w>", "s t", "i s</w>", "t i", "s e", "a s", "c e</w>", "o p", "m an",
        "an ce</w>", "p an", "in st", "ti c</w>", "as k</w>", "t ask</w>", "op tic</w>", "se man", "inst ance</w>",
    ]  # fmt: skip
    ids = {"the</w>": 518, "task</w>": 10549, "is</w>": 533, "seman": 29119, "tic</w>": 1550, "instance</w>": 34572}
    ids |= {"pan": 1072, "optic</w>": 24755, "<|startoftext|>": 49406, "<|endoftext|>": 49407}
    pieces = {piece for merge in merges for piece in (*merge.split(), merge.replace(" ", ""))}
    letters = {letter + end for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")}
    vocabulary = {piece: i for i, piece in enumerate(sorted((pieces | letters) - ids.keys()))} | ids
    tokenizer = transformers.CLIPTokenizer(
        vocab=vocabulary, merges=[tuple(merge.split()) for merge in merges], pad_token="<|endoftext|>"
    )
    processor = transformers.OneFormerProcessor(transformers.OneFormerImageProcessor(num_text=2), tokenizer)
    for task in oneformer.TASKS:
        found = processor._preprocess_text([f"the task is {task}"], max_length=77)
        assert torch.equal(found, oneformer.task_inputs(task)), task


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"'oneformer_dinat'; there is no such model\. There are oneformer_dinat_l"):
        oneformer.create("oneformer_dinat")
    with pytest.raises(ValueError, match="task is 'things'; it must be one of 'semantic', 'instance', 'panoptic'"):
        oneformer.task_inputs("things")
