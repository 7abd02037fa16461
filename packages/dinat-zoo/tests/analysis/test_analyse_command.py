from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import timm
from PIL import Image

from dinat_zoo.analysis import receptive_fields
from dinat_zoo.cli import main


def analyse(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["analyse", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_receptive_fields_of_all_layers(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = json.loads(
        analyse(capsys, "receptive-field", "dinat_mini", "--layers", "--format", "json", "--position", 0, 1)
    )
    fields = receptive_fields(timm.create_model("dinat_mini", device="meta"), 224, (0, 1))
    assert [row["layer"] for row in rows] == [field.layer for field in fields]
    assert [row["share"] for row in rows] == [field.share for field in fields]
    assert [tuple(row["extent"]) for row in rows] == [field.extent for field in fields]


def test_measured_and_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plot = tmp_path / "fields.png"
    text = analyse(capsys, "receptive-field", "dinat_pico", "--measure", "--plot", plot, "--format", "csv")
    [row] = csv.DictReader(io.StringIO(text))
    assert row["share"] == row["measured_share"] == "1.0"
    assert row["map_size"] == "4x4"
    with Image.open(plot) as image:
        assert image.width > 100


def test_published_models_and_those_of_timm_by_gradients(capsys: pytest.CaptureFixture[str]) -> None:
    """With their own channels and depths, on a small image; every layer of one of them too."""
    models = ("nat_mini", "dinat_mini", "swin_tiny_patch4_window7_224", "convnext_tiny", "vitrpb_small")
    command = ("receptive-field", *models, "--size", 96, "--position", 0, 0.7, "--measure", "--json")
    rows = json.loads(analyse(capsys, *command))
    assert [row["model"] for row in rows] == list(models)
    assert all(row["measured_share"] == pytest.approx(row["share"]) for row in rows)
    rows = json.loads(analyse(capsys, "receptive-field", models[2], "--size", 96, "--layers", "--measure", "--json"))
    assert len(rows) == 1 + 12 + 3
    assert all(row["measured_share"] == pytest.approx(row["share"]) for row in rows)
    assert rows[0]["share"] < rows[1]["share"] < rows[2]["share"]


def test_explicit_dilations(capsys: pytest.CaptureFixture[str]) -> None:
    for given in ("8,4,2,1", "1,8,1/1,4,1,4/1,2,1,2,1,2/1,1,1,1,1"):
        command = ("receptive-field", "nat_mini", "--layers", "--dilations", given, "--json")
        found = json.loads(analyse(capsys, *command))
        dinat = json.loads(analyse(capsys, "receptive-field", "dinat_mini", "--layers", "--json"))
        assert [row["extent"] for row in found] == [row["extent"] for row in dinat]


def test_sizes_and_dilations(capsys: pytest.CaptureFixture[str]) -> None:
    models = ("nat_mini", "dinat_mini", "swin_tiny_patch4_window7_224", "convnext_tiny", "vitrpb_small")
    command = ("receptive-field", *models, "--size", 448, "--dilations", "maximum", "--format", "json")
    rows = {row["model"]: row for row in json.loads(analyse(capsys, *command))}
    assert {row["map_size"][0] for row in rows.values()} == {14, 28}
    published = receptive_fields(timm.create_model("dinat_mini", device="meta"), 448)[-1]
    assert rows["dinat_mini"]["extent"] > list(published.extent)
    assert rows["vitrpb_small"]["extent"] == [None, None]


def test_table_and_markdown_in_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = analyse(capsys, "operators", "--rank", 1, "--layers", 2)
    assert "NA-DiNA" in table
    assert "13" in table.splitlines()[4]
    path = tmp_path / "table.md"
    assert analyse(capsys, "operators", "--format", "markdown", "--output", path) == ""
    lines = path.read_text().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["receptive-field", "nat_mni"], "no model is named 'nat_mni'"),
        (["receptive-field", "resnet18"], "model is a ResNet"),
        (["receptive-field", "nat_mini", "--position", "2", "0"], "position has 2.0"),
        (["receptive-field", "dinat_mini", "--dilations", "8,4"], "dilations is (8, 4), for 2 levels; there are 4"),
        (["operators", "--side", "5"], "kernel_size is 7"),
    ],
)
def test_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["analyse", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dinat-zoo: error: ")
    assert message in err
