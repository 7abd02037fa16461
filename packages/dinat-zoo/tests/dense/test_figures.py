"""The figures of the papers' tables of detection and segmentation, as measured on the published code with fvcore."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from dinat_zoo import count_parameters, dense

DATA = Path(__file__).parents[1] / "data" / "dense.csv"
with DATA.open() as file:
    MEASURED = {row["model"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("name", MEASURED)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    measured = MEASURED[name]
    model = dense.create(name, device="meta")
    assert count_parameters(model) == int(measured["params"])
    assert count_parameters(model.backbone) == int(measured["backbone_params"])
    macs = dense.count_macs(model, (int(measured["height"]), int(measured["width"])))
    assert round(macs / 1e9, 3) == float(measured["gmacs"])


@pytest.mark.parametrize("name", [name for name in dense.PUBLISHED if name not in MEASURED])
def test_the_others_have_as_many_parameters_as_their_dilated_twins(name: str) -> None:
    twin = name.replace("_nat_", "_dinat_")
    model = dense.create(name, device="meta")
    assert count_parameters(model) == int(MEASURED[twin]["params"])
    assert all(set(module.dilation) == {1} for module in model.backbone.modules() if hasattr(module, "dilation"))


def test_26_figures_for_34_models() -> None:
    assert len(MEASURED) == 26
    assert len(dense.PUBLISHED) == 34
    assert set(MEASURED) < set(dense.PUBLISHED)
