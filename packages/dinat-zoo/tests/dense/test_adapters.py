"""Our backbone in other libraries' registries: mmengine's where it is installed, and a stand-in for detectron2's."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dinat_zoo import dense

SMALL: dict[str, Any] = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "kernel_size": 3}
SMALL |= {"dilations": ((2,), (1,), (1,), (1,))}
SIZES = [(16, 16, 24), (32, 8, 12), (64, 4, 6), (128, 2, 3)]


def test_mmengine() -> None:
    pytest.importorskip("mmengine")
    from mmengine.registry import MODELS, Registry

    importlib.import_module("dinat_zoo.dense.adapters.mmengine")
    mmdet = Registry("model", parent=MODELS, scope="mmdet")  # as mmdetection makes its own
    body = mmdet.build({"type": "DinatZooBackbone", "name": "dinat_mini", "out_indices": (1, 3), **SMALL})
    body.init_weights()
    maps = body(torch.randn(1, 3, 64, 96))
    assert isinstance(maps, tuple)
    assert [tuple(x.shape[1:]) for x in maps] == [SIZES[1], SIZES[3]]
    own = dense.Backbone.create("dinat_mini", (1, 3), **SMALL)
    assert body.state_dict().keys() == own.state_dict().keys()


class Registry(dict[str, Any]):
    """What detectron2 has for one: a decorator that keeps what it is put on."""

    def register(self) -> Any:
        return lambda item: self.setdefault(item.__name__, item)


class Node(SimpleNamespace):
    """A configuration's node; `**node` gives its entries, as of detectron2's, which are dictionaries."""

    def __init__(self, new_allowed: bool = False, **entries: Any) -> None:
        super().__init__(**entries)

    def keys(self) -> Any:
        return vars(self).keys()

    def __getitem__(self, key: str) -> Any:
        return vars(self)[key]


@pytest.fixture
def detectron2(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The adapter, with as much of detectron2 as it uses."""
    names = ("detectron2", "detectron2.config", "detectron2.modeling")
    root, config, modeling = (ModuleType(name) for name in names)
    config.CfgNode = Node  # type: ignore[attr-defined]
    modeling.BACKBONE_REGISTRY, modeling.Backbone = Registry(), type("Backbone", (nn.Module,), {})  # type: ignore[attr-defined]
    for name, module in zip(names, (root, config, modeling), strict=True):
        monkeypatch.setitem(sys.modules, name, module)
    yield importlib.import_module("dinat_zoo.dense.adapters.detectron2")
    sys.modules.pop("dinat_zoo.dense.adapters.detectron2")


def test_detectron2(detectron2: Any) -> None:
    cfg = Node(MODEL=Node())
    detectron2.add_config(cfg)
    cfg.MODEL.DINAT_ZOO.OUT_FEATURES = ["res3", "res5"]
    cfg.MODEL.DINAT_ZOO.ARGUMENTS = Node(**SMALL)
    build = sys.modules["detectron2.modeling"].BACKBONE_REGISTRY["build_dinat_zoo_backbone"]  # type: ignore[attr-defined]
    body = build(cfg, SimpleNamespace(channels=4))
    maps = body(torch.randn(1, 4, 64, 96))
    assert {name: tuple(x.shape[1:]) for name, x in maps.items()} == {"res3": SIZES[1], "res5": SIZES[3]}
    assert body._out_feature_channels == {"res3": 32, "res5": 128}
    assert body._out_feature_strides == {"res3": 8, "res5": 32}
    assert isinstance(body, sys.modules["detectron2.modeling"].Backbone)  # type: ignore[attr-defined]
