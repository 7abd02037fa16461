from __future__ import annotations

import pytest

from dinat_zoo import dense
from dinat_zoo._pretrained import published
from dinat_zoo.dense.classes import DATASETS


def test_coco_is_torchvisions() -> None:
    assert dense.class_names("coco") == tuple(dense.COCO_CATEGORIES.values())
    assert dense.class_names("coco-panoptic")[:80] == dense.class_names("coco")


@pytest.mark.parametrize("dataset", DATASETS)
def test_names_are_distinct(dataset: str) -> None:
    names = dense.class_names(dataset)
    assert len(set(names)) == len(names)
    assert all(name == name.strip() != "" for name in names)


def test_published_models_have_as_many_classes() -> None:
    for row in published():
        if row.head != "linear":
            keys = [key for key in (f"{row.dataset}-{row.task}", row.dataset) if key in DATASETS]
            assert len(dense.class_names(keys[0])) == row.classes, row.checkpoint


def test_palettes() -> None:
    ade, cityscapes = dense.palette("ade20k"), dense.palette("cityscapes")
    assert (len(ade), len(set(ade))) == (150, 149)
    assert (len(cityscapes), len(set(cityscapes))) == (19, 19)
    assert all(0 <= value <= 255 for color in (*ade, *cityscapes) for value in color)
    by_name = dict(zip(dense.class_names("cityscapes"), cityscapes, strict=True))
    assert by_name["road"] == (128, 64, 128)
    assert dict(zip(dense.class_names("ade20k"), ade, strict=True))["sky"] == (6, 230, 230)
    assert dense.palette("cityscapes-instance") == cityscapes[11:]


def test_unknown_data_sets() -> None:
    with pytest.raises(ValueError, match=r"dataset is 'voc'; it must be one of 'coco', 'coco-panoptic', 'ade20k'"):
        dense.class_names("voc")
    with pytest.raises(ValueError, match="dataset is 'coco', which has no colours; 'ade20k', 'cityscapes' and"):
        dense.palette("coco")
