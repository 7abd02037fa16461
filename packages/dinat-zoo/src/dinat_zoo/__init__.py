"""Neighborhood attention transformers as timm models: importing this package registers them.

>>> import timm
>>> import dinat_zoo
>>> dinat_zoo.list_models()[:2]
['dinat_base', 'dinat_large']
>>> model = timm.create_model("dinat_mini", device="meta")
"""

from __future__ import annotations

from dinat_zoo import dilations, dinat, dinat_s, isotropic, nat
from dinat_zoo._base import BaseTransformer
from dinat_zoo._checkpoint import checkpoint_filter_fn, load_checkpoint
from dinat_zoo._hierarchical import NeighborhoodTransformer
from dinat_zoo._hugging_face import save_hugging_face
from dinat_zoo._isotropic import IsotropicTransformer
from dinat_zoo._profile import count_macs, count_parameters
from dinat_zoo._rpb import interpolate_rpb
from dinat_zoo._weights_file import WeightsError

__all__ = [
    "BaseTransformer",
    "IsotropicTransformer",
    "NeighborhoodTransformer",
    "WeightsError",
    "__version__",
    "checkpoint_filter_fn",
    "count_macs",
    "count_parameters",
    "dilations",
    "interpolate_rpb",
    "list_models",
    "load_checkpoint",
    "save_hugging_face",
]

__version__ = "0.1.0"


def list_models() -> list[str]:
    """The names of this package's models, sorted."""
    return sorted([*nat.VARIANTS, *dinat.VARIANTS, *dinat_s.VARIANTS, *isotropic.VARIANTS])
