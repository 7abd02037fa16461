"""The published dense models, as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dinat_zoo._variants import Dilations
from dinat_zoo.dense.backbone import Backbone
from dinat_zoo.dense.detector import (
    CASCADE_MASK_RCNN,
    CASCADE_MASK_RCNN_RPN,
    MASK_RCNN,
    MASK_RCNN_RPN,
    Detector,
)
from dinat_zoo.dense.segmenter import Segmenter

_SERVER = "https://shi-labs.com/projects"


@dataclass(frozen=True)
class Published:
    """One published model.

    Attributes:
        head: "maskrcnn", "cascadedmaskrcnn" or "upernet".
        backbone: name of the classifier whose body it has.
        dilations: of every block, one sequence per level; None for 1 everywhere.
        drop_path_rate: stochastic depth in training.
        longest: bound of an image's longer side.
        shortest: bound of an image's shorter side; crops in the training of segmentation are squares of it.
        url: where the authors published the weights.
    """

    head: str
    backbone: str
    dilations: Dilations | None
    drop_path_rate: float
    longest: int
    shortest: int
    url: str

    @property
    def num_classes(self) -> int:
        """COCO's 80 classes of things, or ADE20K's 150."""
        return 150 if self.head == "upernet" else 80


HEADS: dict[str, Callable[[Backbone, int], Detector | Segmenter]] = {
    "maskrcnn": lambda backbone, classes: Detector(backbone, MASK_RCNN, MASK_RCNN_RPN, classes),
    "cascadedmaskrcnn": lambda backbone, classes: Detector(backbone, CASCADE_MASK_RCNN, CASCADE_MASK_RCNN_RPN, classes),
    "upernet": Segmenter,
}

# Table II of the paper, by the side of the images that the dilations are for.
_THIRD = {800: (1, 3, 1, 5, 1, 7), 512: (1, 2, 1, 3, 1, 4)}
_THIRD_640 = (1, 2, 1, 3, 1, 4, 1, 5) * 2 + (1, 5)
_DINAT: dict[int, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    800: ((1, 28, 1), (1, 7, 1, 14), (1, 3, 1, 3, 1)),
    512: ((1, 16, 1), (1, 4, 1, 8), (1, 2, 1, 2, 1)),
    640: ((1, 20, 1), (1, 5, 1, 10), (1, 2, 1, 2, 1)),
}
_DINAT_S: dict[int, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    800: ((1, 28), (1, 14), (1, 3)),
    512: ((1, 16), (1, 8), (1, 2)),
    640: ((1, 20), (1, 10), (1, 2)),
}


def dilations(backbone: str, side: int) -> Dilations | None:
    """The published dilations of a backbone.

    Args:
        backbone: its name.
        side: 800 for detection, 512 or, for the large models, 640 for segmentation.
    """
    if backbone.startswith("nat_"):
        return None
    first, second, fourth = (_DINAT_S if backbone.startswith("dinat_s_") else _DINAT)[side]
    shallow = backbone in ("dinat_mini", "dinat_s_tiny")
    third = _THIRD_640 if side == 640 else _THIRD[side] * (1 if shallow else 3)
    return first, second, third, fourth


_SIZES = {
    "nat": ("mini", "tiny", "small", "base"),
    "dinat": ("mini", "tiny", "small", "base", "large"),
    "dinat_s": ("tiny", "small", "base", "large"),
}
# Stochastic depth in training, for the sizes above; there is no Mask R-CNN of the larger ones.
_DROP_PATH_RATES = {
    "maskrcnn": {"nat": (0.2, 0.2, 0.35), "dinat": (0.2, 0.2, 0.35), "dinat_s": (0.2, 0.35)},
    "cascadedmaskrcnn": {
        "nat": (0.2, 0.3, 0.3, 0.5),
        "dinat": (0.2, 0.3, 0.5, 0.6, 0.6),
        "dinat_s": (0.3, 0.5, 0.6, 0.6),
    },
    "upernet": {
        "nat": (0.2, 0.3, 0.5, 0.5),
        "dinat": (0.2, 0.3, 0.5, 0.5, 0.3),
        "dinat_s": (0.3, 0.3, 0.3, 0.3),
    },
}


def _entry(head: str, backbone: str, drop_path_rate: float) -> Published:
    side = 800 if head != "upernet" else 640 if backbone.endswith("_large") else 512
    return Published(
        head,
        backbone,
        dilations(backbone, side),
        drop_path_rate,
        longest=4 * side if head == "upernet" else 1333,
        shortest=side,
        url=_url(head, backbone),
    )


def _url(head: str, backbone: str) -> str:
    if backbone.startswith("nat_"):
        folder, suffix = ("SEG", head) if head == "upernet" else ("DET", head.replace("cascadedmask", "cascademask"))
        return f"{_SERVER}/nat/checkpoints/{folder}/{backbone}_{suffix}.pth"
    folder = "ade20k" if head == "upernet" else "coco"
    return f"{_SERVER}/dinat/checkpoints/{folder}/{head}_{backbone}.pth"


PUBLISHED: dict[str, Published] = {
    f"{head}_{family}_{size}": _entry(head, f"{family}_{size}", rate)
    for head, families in _DROP_PATH_RATES.items()
    for family, rates in families.items()
    for size, rate in zip(_SIZES[family], rates, strict=False)
}
"""The published models by name."""
