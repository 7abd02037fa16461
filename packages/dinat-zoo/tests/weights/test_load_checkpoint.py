from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save
from torch import Tensor, nn

import dinat_zoo
from dinat_zoo import WeightsError, load_checkpoint
from dinat_zoo._formats import convert
from dinat_zoo._predict import load_classifier

URL = "/projects/dinat/checkpoints/imagenet1k/dinat_mini_in1k_224.pth"
HUB = "/shi-labs/dinat-mini-in1k-224/resolve/main/"

Make = Callable[..., Any]


@pytest.fixture
def model(small: Make) -> Any:
    return small()


def dense(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A classifier's weights as those of a detector."""
    body = {f"backbone.{key}": value for key, value in weights.items() if not key.startswith(("norm.", "head."))}
    norms = {f"backbone.norm{i}.{leaf}": torch.randn(32 * 2**i) for i in range(4) for leaf in ("weight", "bias")}
    return {**body, **norms, "neck.lateral_convs.0.conv.bias": torch.randn(256)}


def test_timm_downloads_from_a_url(
    server: Any, model: Any, small: Make, saved: Make, original: Make, same: Make
) -> None:
    server.files["/weights.pth"] = saved(original(model))
    overlay = {"hf_hub_id": None, "url": server.url + "/weights.pth"}
    server.cut = [1000]
    for _ in range(2):
        same(small(pretrained=True, pretrained_cfg_overlay=overlay), model)
    assert server.gets() == [None, "bytes=1000-"]


def test_timm_downloads_from_a_mirror_in_place_of_the_hub(
    server: Any, model: Any, small: Make, saved: Make, original: Make, same: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files[URL] = saved(original(model))
    monkeypatch.setenv("DINAT_ZOO_MIRROR", server.url)
    same(small(pretrained=True), model)
    features = small(pretrained=True, features_only=True)
    same(features.model.levels, model.levels)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_timm_downloads_from_the_hub(
    file: str,
    hub: Any,
    model: Any,
    small: Make,
    saved: Make,
    original: Make,
    same: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = {key: value.contiguous() for key, value in convert(original(model), "hf", "dinat").items()}
    hub.files[HUB + file] = save(weights) if file.endswith("safetensors") else saved(weights)
    same(small(pretrained=True), model)
    other = small()
    load_checkpoint(other, "hf-hub:shi-labs/dinat-mini-in1k-224")
    same(other, model)
    monkeypatch.setenv("DINAT_ZOO_OFFLINE", "1")
    same(small(pretrained=True), model)


def test_timm_own_sources_are_left_alone(model: Any, small: Make, same: Make, tmp_path: Path) -> None:
    same(small(pretrained=True, pretrained_cfg_overlay={"state_dict": model.state_dict()}), model)
    overlay = {"file": str(tmp_path / "weights.pth")}
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(WeightsError, match="it is empty"):
        small(pretrained=True, pretrained_cfg_overlay=overlay)
    torch.save({"hook": timm.create_model}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"would run timm\.models\._factory\.create_model"):
        small(pretrained=True, pretrained_cfg_overlay=overlay)


def test_a_dead_hub_names_the_other_source_and_how_to_pass_a_file(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its attempts
    with pytest.raises(WeightsError) as error:
        small(pretrained=True)
    message = str(error.value)
    assert message.startswith("cannot get shi-labs/dinat-mini-in1k-224 from the Hugging Face hub: ")
    assert f". The same weights are at https://shi-labs.com{URL}" in message
    assert ".." not in message
    assert "dinat_zoo.load_checkpoint(model, PATH)" in message
    assert "pretrained_cfg_overlay=dict(file=PATH)" in message
    assert "\n" not in message


def test_a_dead_server_names_the_other_source_and_how_to_pass_a_file(
    small: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DINAT_ZOO_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(WeightsError) as error:
        small(pretrained=True)
    message = str(error.value)
    assert message.startswith(f"cannot download http://127.0.0.1:9{URL}: ")
    assert "load_checkpoint(model, 'hf-hub:shi-labs/dinat-mini-in1k-224')" in message
    assert "pretrained_cfg_overlay=dict(file=PATH)" in message


@pytest.mark.parametrize("form", ["path", "str", "url", "file url", "name", "old name"])
def test_every_kind_of_source(
    form: str,
    server: Any,
    small: Make,
    saved: Make,
    original: Make,
    same: Make,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    model = small()
    path = tmp_path / "weights.pth"
    server.files["/weights.pth"] = server.files[URL] = saved(original(model))
    server.files["/projects/dinat/checkpoints/imagenet1k/dinat_s_tiny_in1k_224.pth"] = saved(original(model))
    path.write_bytes(server.files[URL])
    if "name" in form:
        monkeypatch.setenv("DINAT_ZOO_MIRROR", server.url)
    source = {
        "path": path,
        "str": str(path),
        "url": server.url + "/weights.pth",
        "file url": path.as_uri(),
        "name": "dinat_mini_in1k_224",
        "old name": "dinat_s_tiny_1k_224",
    }[form]
    other = small()
    assert load_checkpoint(other, source) == ([], [])
    same(other, model)


def test_the_classifier_takes_them_too(server: Any, saved: Make) -> None:
    model = timm.create_model("dinat_pico", num_classes=4)
    server.files["/weights.pth"] = saved(model.state_dict())
    classifier = load_classifier("dinat_pico", f"{server.url}/weights.pth")
    assert classifier.labels == ("class 0", "class 1", "class 2", "class 3")
    assert torch.equal(classifier.model.head.fc.weight, model.head.fc.weight)


def test_unknown_sources(model: Any) -> None:
    with pytest.raises(
        WeightsError, match=r"'dinat_nano' is not a file, nor a folder .*`dinat-zoo list --checkpoints`"
    ):
        load_checkpoint(model, "dinat_nano")
    with pytest.raises(WeightsError, match="cannot download"):
        load_checkpoint(model, "gopher://example.org/weights.pth")


@pytest.mark.parametrize("wrap", ["state_dict", "model", "model_ema", "ddp"])
def test_wrapped_weights(wrap: str, model: Any, small: Make, original: Make, same: Make, tmp_path: Path) -> None:
    weights = original(model)
    if wrap == "ddp":
        content: Any = {"model": {f"module.{key}": value for key, value in weights.items()}}
    else:
        content = {wrap: weights, "epoch": 3}
    torch.save(content, tmp_path / "weights.pth")
    other = small()
    load_checkpoint(other, tmp_path / "weights.pth")
    same(other, model)


def test_a_detectors_backbone(model: Any, small: Make, original: Make, same: Make, tmp_path: Path) -> None:
    weights = dense(original(model))
    torch.save({"meta": {"epoch": 36}, "state_dict": weights}, tmp_path / "detector.pth")
    body = small(num_classes=0)
    norm = body.norm.weight.clone()
    load_checkpoint(body, tmp_path / "detector.pth")
    same(body.levels, model.levels)
    assert torch.equal(body.norm.weight, norm)
    features = small(features_only=True)
    load_checkpoint(features, tmp_path / "detector.pth")
    same(features.model.levels, model.levels)
    normalised = small(features_only=True, out_norms=True)
    load_checkpoint(normalised, tmp_path / "detector.pth")
    assert torch.equal(normalised.model.out_norms[3].bias, weights["backbone.norm3.bias"])
    overlay = {"file": str(tmp_path / "detector.pth")}
    same(small(features_only=True, pretrained=True, pretrained_cfg_overlay=overlay).model.levels, model.levels)
    with pytest.raises(WeightsError, match="has no classifier: give it to a model made with features_only=True"):
        load_checkpoint(small(), tmp_path / "detector.pth")


class Detector(nn.Module):
    """The structure of a model for dense prediction: what is in front of the heads is called `backbone`."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.backbone = body
        del body.norm, body.head
        self.neck = nn.Module()
        self.neck.lateral_convs = nn.ModuleList([nn.Module()])
        self.neck.lateral_convs[0].conv = nn.Conv2d(1, 256, 1)
        self.neck.lateral_convs[0].conv.weight = None


@pytest.mark.parametrize("names", ["original", "timm", "levels as timm, norms as original"])
def test_a_whole_detector(names: str, model: Any, small: Make, original: Make, same: Make, tmp_path: Path) -> None:
    weights = dense(original(model))
    file = weights if names == "original" else convert(weights, "timm")
    if names.endswith("norms as original"):
        file = {key.replace("out_norms.", "norm"): value for key, value in file.items()}
    torch.save({"meta": {}, "state_dict": file}, tmp_path / "detector.pth")
    detector = Detector(small(out_norms=True))
    assert load_checkpoint(detector, tmp_path / "detector.pth") == ([], [])
    same(detector.backbone.levels, model.levels)
    assert torch.equal(detector.backbone.out_norms[2].bias, weights["backbone.norm2.bias"])
    assert torch.equal(detector.neck.lateral_convs[0].conv.bias, weights["neck.lateral_convs.0.conv.bias"])


def test_detectron2_weights(model: Any, small: Make, original: Make, same: Make, tmp_path: Path) -> None:
    path = tmp_path / "dinat.pkl"
    path.write_bytes(pickle.dumps({"model": original(model), "__author__": "x", "matching_heuristics": True}))
    other = small()
    load_checkpoint(other, path)
    same(other, model)
    with pytest.raises(WeightsError, match="timm cannot read the detectron2 file"):
        small(pretrained=True, pretrained_cfg_overlay={"file": str(path)})


def test_a_classifier_for_a_model_without_classes(
    model: Any, small: Make, original: Make, same: Make, tmp_path: Path
) -> None:
    torch.save(original(model), tmp_path / "weights.pth")
    body, features = small(num_classes=0), small(features_only=True, out_indices=(0, 1))
    load_checkpoint(body, tmp_path / "weights.pth")
    same(body.levels, model.levels)
    assert torch.equal(body.norm.bias, model.norm.bias)
    with pytest.raises(WeightsError, match=r"unexpected: levels\.2\."):
        load_checkpoint(features, tmp_path / "weights.pth")
    missing, unexpected = load_checkpoint(features, tmp_path / "weights.pth", strict=False)
    assert missing == []
    assert all(key.startswith(("levels.2", "levels.3")) for key in unexpected)
    same(features.model.levels, model.levels[:2])


def test_norms_of_levels_are_no_hindrance_to_a_classifier(small: Make, same: Make, tmp_path: Path) -> None:
    model, other = small(out_norms=True), small()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    load_checkpoint(other, tmp_path / "weights.pth")
    same(other.levels, model.levels)
    same(other.head, model.head)


def test_what_does_not_fit(model: Any, small: Make, original: Make, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    weights = original(model)
    del weights["levels.2.blocks.0.attn.rpb"]
    torch.save({**weights, "extra.weight": torch.ones(1)}, path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = r"missing: levels\.2\.blocks\.0\.attn\.rpb; unexpected: extra\.weight"
    with pytest.raises(WeightsError, match=f"weights.pth' does not fit 'dinat_mini': {expected}"):
        load_checkpoint(model, path)
    assert load_checkpoint(model, path, strict=False) == (["levels.2.blocks.0.attn.rpb"], ["extra.weight"])

    torch.save(original(small(num_classes=7)), path)
    with pytest.raises(WeightsError, match=r"sizes: head\.fc\.weight is \[7, 256\], not \[1000, 256\], head\.fc\.bias"):
        load_checkpoint(model, path)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])

    torch.save({"weights": [1, 2, 3]}, path)
    with pytest.raises(WeightsError, match="has weights where weights were expected"):
        load_checkpoint(model, path)
    torch.save([1, 2, 3], path)
    with pytest.raises(WeightsError, match="holds a list"):
        load_checkpoint(model, path)


def test_another_window_is_named(model: Any, small: Make, original: Make, tmp_path: Path) -> None:
    torch.save(original(model), tmp_path / "weights.pth")
    expected = r"levels\.0\.blocks\.0\.attn\.rpb is of a 3x3 window, and the model's window is 5x5"
    wider = small(kernel_size=5)
    with pytest.raises(WeightsError, match=expected):
        load_checkpoint(wider, tmp_path / "weights.pth")
    assert load_checkpoint(wider, tmp_path / "weights.pth", interpolate=True) == ([], [])
    for name, parameter in model.named_parameters():
        wanted = dinat_zoo.interpolate_rpb(parameter, 5) if name.endswith(".rpb") else parameter
        assert torch.equal(wider.get_parameter(name), wanted)


def test_public_names() -> None:
    assert issubclass(dinat_zoo.WeightsError, Exception)
    assert timm.is_model("dinat_mini")
