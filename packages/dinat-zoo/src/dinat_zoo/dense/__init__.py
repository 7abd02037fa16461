"""Detection, instance and semantic segmentation on NAT and DiNAT: the published models, and their parts.

>>> from dinat_zoo import dense
>>> dense.list_models()[:2]
['cascadedmaskrcnn_dinat_base', 'cascadedmaskrcnn_dinat_large']
>>> model = dense.create("maskrcnn_dinat_mini", device="meta")
"""

from __future__ import annotations

from dinat_zoo.dense.backbone import Backbone
from dinat_zoo.dense.classes import category_ids, class_names, palette, things
from dinat_zoo.dense.create import create, list_models, transform
from dinat_zoo.dense.data import COCO_CATEGORIES, Batch, Detections, Objects
from dinat_zoo.dense.detector import Detector
from dinat_zoo.dense.profile import count_macs
from dinat_zoo.dense.published import PUBLISHED, Published
from dinat_zoo.dense.pyramid import PyramidBackbone
from dinat_zoo.dense.segmenter import Segmenter, predict, slide
from dinat_zoo.dense.transforms import ImageTransform

__all__ = [
    "COCO_CATEGORIES",
    "PUBLISHED",
    "Backbone",
    "Batch",
    "Detections",
    "Detector",
    "ImageTransform",
    "Objects",
    "Published",
    "PyramidBackbone",
    "Segmenter",
    "category_ids",
    "class_names",
    "count_macs",
    "create",
    "list_models",
    "palette",
    "predict",
    "slide",
    "things",
    "transform",
]
