"""Every published format from a server: a good file, and each way in which one can be bad."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save
from torch import Tensor, nn

from dinat_zoo import WeightsError, dense, load_checkpoint
from dinat_zoo._download import cache_path
from dinat_zoo._formats import convert
from dinat_zoo.dense import mask2former, oneformer
from dinat_zoo.dense.detector import CASCADE_MASK_RCNN, CASCADE_MASK_RCNN_RPN, MASK_RCNN, MASK_RCNN_RPN

BODY: dict[str, Any] = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "kernel_size": 3}
DILATED: dict[str, Any] = {"dilations": ((2,), (1,), (1,), (1,))}
HEADS: dict[str, Any] = {"hidden_dim": 32, "num_queries": 4, "decoder_layers": 3, "encoder_layers": 1}
M2F, ONEFORMER = "mask2former_dinat_large_cityscapes_semantic", "oneformer_dinat_large_cityscapes"
Weights = dict[str, Tensor]


def saved(content: Any) -> bytes:
    file = BytesIO()
    torch.save(content, file)
    return file.getvalue()


def from_mm(weights: Weights) -> bytes:
    return saved({"meta": {"epoch": 36, "CLASSES": ("a", "b")}, "state_dict": weights, "optimizer": {"state": {}}})


def from_detectron2(weights: Weights) -> bytes:
    return saved({"model": weights, "iteration": 90000})


def pickled(weights: Weights) -> bytes:
    arrays = {key: value.numpy() for key, value in weights.items()}
    return pickle.dumps({"model": arrays, "__author__": "third_party", "matching_heuristics": True})


@dataclass(frozen=True)
class Format:
    """How a published file is made, and what is loaded from it.

    Attributes:
        create: makes a small model of the kind.
        publish: a model's weights under the published names.
        write: the file of them.
        load: a model like it, loaded from a source.
        name: of the file.
    """

    create: Callable[[], nn.Module]
    publish: Callable[[nn.Module], Weights]
    write: Callable[[Weights], bytes]
    load: Callable[[nn.Module, str], Any] = load_checkpoint
    name: str = "x.pth"


def classifier(name: str, **arguments: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=5, **{**BODY, **arguments})


def backbone() -> dense.Backbone:
    return dense.Backbone.create("dinat_mini", **BODY, **DILATED)


def original(model: nn.Module) -> Weights:
    return convert(model.state_dict(), "original")


def hugging_face(prefix: str) -> Callable[[nn.Module], Weights]:
    return lambda model: {k: x.contiguous() for k, x in convert(model.state_dict(), "hf", prefix).items()}


def detector(roi: Any, rpn: Any) -> Callable[[], nn.Module]:
    return lambda: dense.Detector(backbone(), roi, rpn, 3, channels=16, hidden=32)


def with_other_heads(model: nn.Module) -> Weights:
    body = {f"backbone.{key}": value for key, value in original(model).items()}
    return {
        **body,
        "sem_seg_head.predictor.query_feat.weight": torch.ones(2, 2),
        "criterion.empty_weight": torch.ones(2),
    }


def universal(module: Any, name: str, **heads: int) -> dict[str, Callable[..., Any]]:
    def create(source: str | None = None) -> nn.Module:
        pytest.importorskip("transformers", minversion="5")
        pytest.importorskip("scipy")
        model: nn.Module = module.create(name, source, heads={**HEADS, **heads}, **BODY, **DILATED)
        return model

    def load(model: nn.Module, source: str) -> None:
        model.load_state_dict(create(source).state_dict())

    return {"create": create, "publish": lambda model: module.from_transformers(model.state_dict()), "load": load}


dinat, nat = classifier("dinat_mini", **DILATED), classifier("nat_mini")
FORMATS = {
    "classifier": Format(dinat, original, saved),
    "classifier with layer scale": Format(
        classifier("nat_mini", layer_scale=0.5), original, lambda w: saved({"model": w})
    ),
    "Mask R-CNN": Format(detector(MASK_RCNN, MASK_RCNN_RPN), original, from_mm),
    "Cascade Mask R-CNN": Format(detector(CASCADE_MASK_RCNN, CASCADE_MASK_RCNN_RPN), original, from_mm),
    "UPerNet": Format(lambda: dense.Segmenter(backbone(), 3, 16, 16), original, from_mm),
    "Mask2Former": Format(**universal(mask2former, M2F, feature_size=32, mask_feature_size=32), write=from_detectron2),
    "OneFormer": Format(**universal(oneformer, ONEFORMER, conv_dim=32, mask_dim=32), write=from_detectron2),
    "Mask2Former's backbone": Format(backbone, with_other_heads, from_detectron2),
    "detectron2's pickle": Format(backbone, with_other_heads, pickled, name="x.pkl"),
    "nat safetensors": Format(nat, hugging_face("nat"), save, name="model.safetensors"),
    "nat bin": Format(nat, hugging_face("nat"), saved, name="pytorch_model.bin"),
    "dinat safetensors": Format(dinat, hugging_face("dinat"), save, name="model.safetensors"),
    "dinat bin": Format(dinat, hugging_face("dinat"), saved, name="pytorch_model.bin"),
    "ours": Format(dinat, lambda model: model.state_dict(), save, name="model.safetensors"),
}


@pytest.fixture(params=FORMATS.values(), ids=FORMATS)
def form(request: pytest.FixtureRequest, one_thread: None) -> Format:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def case(form: Format, server: Any) -> Iterator[tuple[nn.Module, Weights, str]]:
    """A model, its weights as published, and where the file will be; the model stays as it is where loading fails."""
    torch.manual_seed(0)
    model = form.create()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, -1, 1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    yield model, form.publish(model), f"{server.url}/{form.name}"
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_good(form: Format, case: tuple[nn.Module, Weights, str], server: Any, same: Callable[..., None]) -> None:
    model, weights, url = case
    server.files["/" + form.name] = form.write(weights)
    server.cut = [500]  # and resumed
    other = form.create()
    form.load(other, url)
    same(other, model)
    assert server.gets() == [None, "bytes=500-"]
    assert cache_path(url).with_name(f"{form.name}.sha256").is_file()


def test_truncated(form: Format, case: tuple[nn.Module, Weights, str], server: Any) -> None:
    model, weights, url = case
    content = form.write(weights)
    server.files["/" + form.name] = content[: len(content) // 2]
    with pytest.raises(WeightsError, match=r"cut off|truncated"):
        form.load(model, url)
    assert not cache_path(url).exists()


def test_wrong_hash(form: Format, case: tuple[nn.Module, Weights, str], server: Any) -> None:
    model, weights, url = case
    server.files["/" + form.name] = form.write(weights)
    form.load(form.create(), url)
    cache_path(url).unlink()
    key = next(iter(weights))
    server.files["/" + form.name] = form.write({**weights, key: weights[key] + 1})
    with pytest.raises(WeightsError, match="gave something else than expected"):
        form.load(model, url)
    assert not cache_path(url).exists()


def test_malicious(form: Format, case: tuple[nn.Module, Weights, str], server: Any, tmp_path: Path) -> None:
    """Whatever the name of the file says; what it would run is named, and not run."""
    model, weights, url = case
    bomb = Bomb(str(tmp_path / "it ran"))
    write = pickle.dumps if form.write is pickled else saved
    server.files["/" + form.name] = write({"model": dict(weights), "hook": bomb})
    with pytest.raises(WeightsError, match=r"it would run .*mkdir"):
        form.load(model, url)
    assert not (tmp_path / "it ran").exists()
    assert not cache_path(url).exists()


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def a_parameter(weights: Weights) -> str:
    return next(key for key in weights if "mlp.fc1.weight" in key or "intermediate.dense.weight" in key)


def test_wrong_shapes(form: Format, case: tuple[nn.Module, Weights, str], server: Any) -> None:
    model, weights, url = case
    key = a_parameter(weights)
    server.files["/" + form.name] = form.write({**weights, key: weights[key][1:].contiguous()})
    rows = len(weights[key])
    said = rf"sizes: .*levels\.0\.blocks\.0\.mlp\.fc1\.weight is \[{rows - 1}, 16\], not \[{rows}, 16\]"
    with pytest.raises(WeightsError, match=said):
        form.load(model, url)


def test_missing_keys(form: Format, case: tuple[nn.Module, Weights, str], server: Any) -> None:
    model, weights, url = case
    del weights[a_parameter(weights)]
    server.files["/" + form.name] = form.write(weights)
    with pytest.raises(WeightsError, match=r"missing: .*levels\.0\.blocks\.0\.mlp\.fc1\.weight"):
        form.load(model, url)
