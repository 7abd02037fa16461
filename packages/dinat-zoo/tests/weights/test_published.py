from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import timm

import dinat_zoo
from dinat_zoo import dense
from dinat_zoo._pretrained import cfgs_of, find, published
from dinat_zoo.cli import main
from dinat_zoo.dense import mask2former

SERVER = "https://shi-labs.com/projects/"


def test_the_table() -> None:
    rows = published()
    assert len(rows) == len({row.checkpoint for row in rows}) == len({row.url for row in rows}) == 74
    counts = Counter(row.head for row in rows)
    expected = {"linear": 25, "mask_rcnn": 8, "cascade_mask_rcnn": 13, "upernet": 13, "mask2former": 8, "oneformer": 7}
    assert counts == expected
    for row in rows:
        if row.head == "oneformer":
            assert re.fullmatch(
                rf"{SERVER}oneformer/{row.dataset}/[0-9a-z_]+_dinat_l_oneformer_[0-9a-z_]+\.pth", row.url
            )
            assert row.hub in ("", f"shi-labs/oneformer_{row.dataset}_dinat_large")
            continue
        folder = {"linear": "imagenet1k|imagenet22k|isotropic|CLS", "upernet": "ade20k|SEG", "mask2former": "m2f"}
        folder_of_row = folder.get(row.head, "coco|DET")
        assert re.fullmatch(rf"{SERVER}(nat|dinat)/checkpoints/({folder_of_row})/{row.checkpoint}\.pth", row.url)
        family = "nat" if row.url.startswith(f"{SERVER}nat/") else "dinat"
        assert row.model.startswith((f"{family}_", "nat_isotropic", "vitrpb"))
        assert row.head == "linear" or row.model.removesuffix("_21k_11x11") in row.checkpoint
        assert not row.hub or row.hub.split("/")[1].startswith(f"{family}-")


def test_every_file_of_the_nat_and_dinat_papers_has_its_source() -> None:
    """The authors' files, the older names of five of them, and the repositories on the hub, copied from their pages."""
    lines = (Path(__file__).parent / "data" / "published-files.txt").read_text().splitlines()
    urls, names, hub = ([line for line in lines if line.startswith(start)] for start in (SERVER, "dinat_", "shi-labs/"))
    assert (len(urls), len(names), len(hub), len(lines)) == (67, 5, 11, 83)
    rows = [row for row in published() if row.head != "oneformer"]
    assert sorted(row.url for row in rows) == sorted(urls)
    assert sorted(row.hub for row in rows if row.hub) == sorted(hub)
    found = [find(name) for name in names]
    assert [row and row.checkpoint for row in found] == [name.replace("_1k_", "_in1k_") for name in names]
    classifiers = [cfg for name in dinat_zoo.list_models() for cfg in cfgs_of(name).values() if "file" not in cfg]
    assert sorted(cfg["url"] for cfg in classifiers) == sorted(row.url for row in rows if row.head == "linear")
    assert sorted(cfg["hf_hub_id"] for cfg in classifiers if "hf_hub_id" in cfg) == sorted(hub)
    dense_urls = {entry.url for entry in dense.PUBLISHED.values()}
    dense_urls |= {row.url for row in rows if row.checkpoint in mask2former.list_models()}
    assert dense_urls == {row.url for row in rows if row.head != "linear"}


def test_names() -> None:
    for row in published():
        assert find(row.checkpoint) is row
    assert find("dinat_s_large_1k_384") is find("dinat_s_large_in1k_384") is not None
    assert find("dinat_mini") is None


def test_configurations_have_both_sources() -> None:
    cfg = timm.get_pretrained_cfg("dinat_large_384_11x11.shi_labs_in22k_ft_in1k")
    assert cfg.hf_hub_id == "shi-labs/dinat-large-11x11-in22k-in1k-384"
    assert cfg.url.endswith("/imagenet1k/dinat_large_in22k_in1k_384_11x11.pth")
    assert (cfg.input_size, cfg.pool_size, cfg.crop_pct) == ((3, 384, 384), (12, 12), 1.0)
    isotropic = timm.get_pretrained_cfg("vitrpb_small.shi_labs_in1k")
    assert (isotropic.pool_size, isotropic.first_conv) == ((14, 14), "patch_embed.proj")
    assert isotropic.hf_hub_id is None


def test_every_published_classifier_is_a_model() -> None:
    """With the same classes and image size as the architecture says."""
    rows = [row for row in published() if row.head == "linear"]
    tags = {row.model: next(iter(cfgs_of(row.model))) for row in rows}
    assert len(rows) == len(tags) == 25
    for row in rows:
        cfg = timm.get_pretrained_cfg(f"{row.model}.{tags[row.model]}")
        assert cfg.url == row.url
        assert (cfg.num_classes, *cfg.input_size) == (row.classes, 3, row.height, row.width)
    assert {row.model for row in published()} <= set(dinat_zoo.list_models())


def test_list_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--checkpoints", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 74
    assert rows[0]["classes"] == 1000
    assert main(["list", "--checkpoints"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["checkpoint", "model", "task", "head", "dataset", "classes", "size", "sources"]
    [line] = [line for line in lines if line.startswith("upernet_dinat_tiny ")]
    assert line.split()[1:7] == ["dinat_tiny", "semantic", "upernet", "ade20k", "150", "512×512"]
