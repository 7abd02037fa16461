"""`dinat-zoo info`: a model and what it runs on, a published checkpoint, or this machine."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

import torch

import natten_core
from dinat_zoo import count_macs, count_parameters, dense, list_models
from dinat_zoo._base import BaseTransformer
from dinat_zoo._machine import machine
from dinat_zoo._predict import create
from dinat_zoo._pretrained import find, published
from dinat_zoo.cli._arguments import Commands, add_device, example, fail, is_model, near, positive
from natten_core import NeighborhoodAttention2D

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_EXAMPLES = """\
examples:
  dinat-zoo info                                   versions, kernels and devices of this machine
  dinat-zoo info dinat_mini                        its sizes, levels, kernels here, checkpoints
  dinat-zoo info dinat_large --image-size 384 --dtype bf16 --device cuda
  dinat-zoo info upernet_dinat_tiny                a published checkpoint
"""


def add_to(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    parser = commands.add_parser(
        "info",
        help="describe a model, a checkpoint or this machine",
        description="Describe a model: parameters, multiply-accumulates, levels with the backend and kernel that each "
        "gets on this device, checkpoints. Or a published checkpoint or, without a name, this machine. Nothing is "
        "downloaded.",
        **example(_EXAMPLES),
    )
    parser.add_argument("name", nargs="?", help="of a model or a published checkpoint")
    parser.add_argument("--image-size", type=positive, help="side of the images (default: the model's)")
    parser.add_argument("--dtype", choices=_DTYPES, default="fp32", help="of the activations (default: %(default)s)")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Describe what was named; returns the exit code: 0, or 2 if nothing has that name."""
    name: str | None = arguments.name
    if name is None:
        document = machine()
    elif is_model(name):
        document = describe(name, arguments.image_size, arguments.device, _DTYPES[arguments.dtype])
    elif name in dense.PUBLISHED:
        document = _dense(name)
    elif row := find(name):
        document = asdict(row)
    else:
        known = [*list_models(), *dense.list_models(), *(row.checkpoint for row in published())]
        like = near(name, known, ["dinat_mini"])
        return fail(f"name is {name!r}; no model or checkpoint is named so. Near it: {like}", 2)
    if arguments.json:
        print(json.dumps(document, indent=2))
    else:
        _print(document)
    return 0


def describe(name: str, image_size: int | None, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """All about a model at an image size, on a device; no parameter is allocated."""
    model = create(name, device="meta")
    cfg = model.pretrained_cfg
    size = cfg["input_size"][1:] if image_size is None else (image_size, image_size)
    rows = [row for row in published() if row.model == name.split(".")[0]]
    return {
        "model": name,
        "parameters": count_parameters(model),
        "macs": count_macs(model, size),
        "image_size": list(size),
        "channels": model.in_chans,
        "classes": model.num_classes,
        "mean": list(cfg["mean"]),
        "std": list(cfg["std"]),
        "crop_pct": cfg["crop_pct"],
        "paper": cfg.get("paper_ids"),
        "license": cfg.get("license"),
        "origin": cfg.get("origin_url"),
        "weights": (cfg.get("file") and "bundled") or cfg.get("hf_hub_id") or cfg.get("url"),
        "features": model.feature_info,
        "levels": _levels(model, size, device, dtype),
        "checkpoints": [asdict(row) for row in rows],
    }


def _levels(
    model: BaseTransformer, size: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> list[dict[str, Any]]:
    levels = []
    for blocks, reduction in zip(model._rows(), model._reductions(), strict=True):
        first: Any = blocks[0].attn
        shape = [-(-side // reduction) for side in size]
        attention = [_attention(block.attn, shape, device, dtype) for block in blocks]
        levels.append({"map": shape, "dim": first.qkv.in_features, "heads": first.num_heads, "blocks": attention})
    return levels


def _attention(attn: Any, shape: list[int], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    if not isinstance(attn, NeighborhoodAttention2D):
        return {"attention": "global", "runs_on": "torch's scaled_dot_product_attention"}
    padded = [max(side, k * d) for side, k, d in zip(shape, attn.kernel_size, attn.dilation, strict=True)]
    qkv = torch.empty(1, *padded, 3, attn.num_heads, attn.head_dim, device=device, dtype=dtype)
    rpb = None if attn.rpb is None else torch.empty(attn.rpb.shape, device=device, dtype=dtype)
    query, key, value = qkv.unbind(3)
    found = natten_core.explain(query, key, value, attn.kernel_size, dilation=attn.dilation, scale=attn.scale, rpb=rpb)
    return {
        "attention": "neighborhood",
        "kernel_size": list(attn.kernel_size),
        "dilation": list(attn.dilation),
        "padded": padded if padded != shape else None,
        "backend": found.backend,
        "kernel": found.kernel,
    }


def _dense(name: str) -> dict[str, Any]:
    entry, row = dense.PUBLISHED[name], find(name)
    model = dense.create(name, device="meta")
    return {
        "model": name,
        "head": entry.head,
        "backbone": entry.backbone,
        "parameters": count_parameters(model),
        "classes": entry.num_classes,
        "longest": entry.longest,
        "shortest": entry.shortest,
        "drop_path_rate": entry.drop_path_rate,
        "dilations": entry.dilations,
        "url": entry.url,
        "checkpoints": [] if row is None else [asdict(row)],
    }


def _print(value: Any, indent: str = "") -> None:
    """Print a document as an indented list; equal neighbours of a list, such as a level's blocks, once."""
    for key, item in value.items():
        if isinstance(item, dict):
            print(f"{indent}{key}:")
            _print(item, indent + "  ")
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            print(f"{indent}{key}:")
            for entry in item:
                simple = {
                    k: v for k, v in entry.items() if not isinstance(v, list) or not v or not isinstance(v[0], dict)
                }
                print(f"{indent}  " + ", ".join(f"{k} {_text(v)}" for k, v in simple.items() if v not in (None, "")))
                _print({k: v for k, v in entry.items() if k not in simple}, indent + "    ")
        elif item not in (None, ""):
            print(f"{indent}{key}: {_text(item)}")


def _text(item: Any) -> str:
    if isinstance(item, int) and not isinstance(item, bool):
        return f"{item:,}"
    if isinstance(item, list | tuple) and all(isinstance(part, int) for part in item):
        return "x".join(map(str, item))
    return ", ".join(map(_text, item)) if isinstance(item, list | tuple) else str(item)
