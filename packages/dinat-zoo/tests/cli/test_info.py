from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import dinat_zoo
import natten_core
from dinat_zoo.cli import main

Command = Callable[..., tuple[int, Any, str]]


def test_a_model(command: Command) -> None:
    code, document, _ = command("info", "dinat_mini", "--device", "cpu")
    assert code == 0
    assert document["parameters"] == 19_984_174
    assert document["macs"] == pytest.approx(2.7133e9, rel=1e-4)
    assert document["checkpoints"][0]["checkpoint"] == "dinat_mini_in1k_224"
    assert document["license"] == "mit"
    assert [level["map"] for level in document["levels"]] == [[56, 56], [28, 28], [14, 14], [7, 7]]
    assert [level["dim"] for level in document["levels"]] == [64, 128, 256, 512]
    assert [level["heads"] for level in document["levels"]] == [2, 4, 8, 16]
    blocks = document["levels"][0]["blocks"]
    assert [block["dilation"] for block in blocks] == [[1, 1], [8, 8], [1, 1]]
    q = torch.empty(1, 56, 56, 2, 32)
    found = natten_core.explain(q, q, q, 7, dilation=8, rpb=torch.empty(2, 13, 13))
    assert blocks[1]["backend"] == found.backend


def test_small_images_are_padded_and_global_attention_is_torchs(command: Command) -> None:
    document = command("info", "dinat_mini", "--image-size", 112)[1]
    assert document["levels"][0]["map"] == [28, 28]
    assert document["levels"][0]["blocks"][1]["padded"] == [56, 56]
    document = command("info", "vitrpb_small")[1]
    assert document["levels"][0]["blocks"][0]["attention"] == "global"


def test_this_machine(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    code, document, _ = command("info")
    assert code == 0
    assert document["versions"]["torch"] == str(torch.__version__)
    assert document["versions"]["dinat_zoo"] == dinat_zoo.__version__
    assert document["natten_core"] == natten_core.build_info()
    assert document["devices"][0]["device"] == "cpu"
    assert main(["info"]) == 0
    assert f"  torch: {torch.__version__}" in capsys.readouterr().out


def test_checkpoints_and_dense_models(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    document = command("info", "upernet_dinat_tiny")[1]
    assert document["parameters"] == 57_697_106
    assert document["dilations"][0] == [1, 16, 1]
    assert command("info", "nat_mini_maskrcnn")[1]["head"] == "mask_rcnn"
    assert main(["info", "dinat_tiny"]) == 0
    out = capsys.readouterr().out
    assert "parameters: 27,901,582" in out
    assert "dilation 8x8" in out


def test_unknown_names(command: Command) -> None:
    code, document, err = command("info", "dinat_mimi")
    assert (code, document) == (2, None)
    assert "name is 'dinat_mimi'; no model or checkpoint is named so. Near it: dinat_mini" in err
