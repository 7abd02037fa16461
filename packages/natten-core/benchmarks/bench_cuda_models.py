"""Times whole models on a CUDA device, eager and compiled: DiNAT against timm's Swin and ConvNeXt.

    python bench_cuda_models.py                       Tiny models, batch 256, 224x224, bf16, forward
    python bench_cuda_models.py --train --out x.json  a training step too: forward, loss, backward

Images a second from the median of device times; all models in one process, taking turns. Needs timm and dinat-zoo.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from gpu.timing import interleave

import natten_core

MODELS = ("dinat_tiny", "nat_tiny", "swin_tiny_patch4_window7_224", "convnext_tiny")


def step(model: torch.nn.Module, images: torch.Tensor, train: bool, channels_last: bool) -> Callable[[], None]:
    labels = torch.randint(1000, (len(images),), device="cuda")
    given = images.to(memory_format=torch.channels_last) if channels_last else images

    def forward() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            model(given)

    def both() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(given), labels)
        loss.backward()
        model.zero_grad(set_to_none=True)

    return both if train else forward


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    began = time.monotonic()
    images = torch.randn(options.batch, 3, 224, 224, device="cuda")
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "build": natten_core.build_info(),
        "batch": options.batch,
        "models": [],
        "skipped": {},
    }
    print(f"{result['device']}, torch {torch.__version__}, timm {timm.__version__}, batch {options.batch}, bf16\n")
    for train in (False, True) if options.train else (False,):
        for compiled in (True, False):
            calls = {}
            for name in options.models:
                if time.monotonic() - began > options.seconds:
                    result["skipped"][f"{name} {'compiled' if compiled else 'eager'}"] = "out of time"
                    continue
                try:
                    model = timm.create_model(name).cuda().train(train)
                    if channels_last := name.startswith("convnext"):
                        model = model.to(memory_format=torch.channels_last)
                    graph = torch.compile(model) if compiled else model
                    call = step(graph, images, train, channels_last)
                    call()
                    calls[name] = call
                except Exception as error:
                    result["skipped"][name] = f"{type(error).__name__}: {str(error)[:300]}"
                    print(f"{name}: {result['skipped'][name]}")
            for name, samples in interleave(calls, options.rounds).items():
                us = samples.summary()
                entry = {
                    "model": name,
                    "mode": "train" if train else "forward",
                    "compiled": compiled,
                    "us": us,
                    "images_per_second": 1e6 * options.batch / us["median"],
                }
                result["models"].append(entry)
                print(
                    f"{name:<30}{entry['mode']:<9}{'compiled' if compiled else 'eager':<10}{us['median'] / 1e3:8.2f} ms"
                    f"{entry['images_per_second']:>10.0f} images/s",
                    flush=True,
                )
            del calls
            torch.cuda.empty_cache()
            if options.out:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    import dinat_zoo  # noqa: F401  registers its models with timm

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="NAME", help="as timm calls them")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--train", action="store_true", help="training steps too")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1e9, help="make no model after this long")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything as JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
