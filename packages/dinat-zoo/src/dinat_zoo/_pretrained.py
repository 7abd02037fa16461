"""Where the weights of each architecture are: what its pretrained configurations say beyond the architecture's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinat_zoo import fashion_mnist

_PUBLISHED = "https://github.com/SHI-Labs/Neighborhood-Attention-Transformer"


def _shi_labs(hf_hub_id: str) -> dict[str, Any]:
    return {"hf_hub_id": f"shi-labs/{hf_hub_id}", "license": "mit", "origin_url": _PUBLISHED}


_CFGS: dict[str, dict[str, dict[str, Any]]] = {
    "dinat_pico": {
        "fashion_mnist": {
            "file": str(Path(__file__).parent / "weights" / "dinat_pico.fashion_mnist.safetensors"),
            "label_names": fashion_mnist.LABELS,
            "mean": fashion_mnist.MEAN,
            "std": fashion_mnist.STD,
            "license": "mit",
        }
    },
    **{
        f"{family}_{size}": {"shi_labs_in1k": _shi_labs(f"{family}-{size}-in1k-224")}
        for family in ("nat", "dinat")
        for size in ("mini", "tiny", "small", "base")
    },
    "dinat_large": {"shi_labs_in22k_ft_in1k": _shi_labs("dinat-large-in22k-in1k-224")},
}


def cfgs_of(architecture: str) -> Mapping[str, Mapping[str, Any]]:
    """The pretrained configurations of an architecture.

    Args:
        architecture: a model's name without a tag.

    Returns:
        By tag, the default's first, entries of timm's `PretrainedCfg` beyond those of `_variants.base_cfg`; empty where
        no weights exist.
    """
    return _CFGS.get(architecture, {})
