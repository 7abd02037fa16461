"""The published dense models, as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dinat_zoo import dilations, dinat, dinat_s, nat
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
    dilations: dilations.Dilations | None
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
    depths = {**nat.VARIANTS, **dinat.VARIANTS, **dinat_s.VARIANTS}[backbone].arguments["depths"]
    task = "ade20k" if head == "upernet" else "coco"
    side = 800 if head != "upernet" else 640 if backbone.endswith("_large") else 512
    return Published(
        head,
        backbone,
        None if backbone in nat.VARIANTS else dilations.published(depths, task, side),
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
