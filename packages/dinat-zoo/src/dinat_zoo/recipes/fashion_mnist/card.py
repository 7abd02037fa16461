"""Put a finished run into the package: weights, log and a model card made of measurements.

    python -m dinat_zoo.recipes.fashion_mnist.card --data DIR --run DIR --ablation DIR [--into DIR] [--sample FILE]

`--run` and `--ablation` are `--out` of two finished runs of `train`, the second one with `--without-attention`.
`--sample` also writes some test images with the weights' logits, for tests that cannot have the whole data set.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor

from dinat_zoo._hierarchical import NeighborhoodTransformer
from dinat_zoo._profile import count_macs, count_parameters
from dinat_zoo.fashion_mnist import LABELS, SIDE
from dinat_zoo.recipes.fashion_mnist.data import load_split
from dinat_zoo.recipes.fashion_mnist.evaluate import accuracy, confusion_matrix, logits, table, without_attention
from dinat_zoo.recipes.fashion_mnist.train import LOG, WEIGHTS

TAG = "fashion_mnist"
PACKAGE = "dinat_zoo.recipes.fashion_mnist"
_EXPLORATION = Path(__file__).parent / "exploration.md"

_CARD = """\
# {name}

A neighborhood attention transformer ([DiNAT](https://arxiv.org/abs/2209.15001)) of {parameters:,} parameters and
{macs:.1f} million multiply-accumulates an image, which puts 28x28 grey images of garments into the ten classes of
[Fashion-MNIST](https://arxiv.org/abs/1708.07747). It is here so that the package works without a network.

**{accuracy:.2f}% top-1** on the {images:,} test images: the averaged weights after the last of {epochs} epochs. No
epoch was chosen by its test accuracy.

## Architecture

| level | map | channels | heads | window | dilations of the blocks |
|---:|---|---:|---:|---|---|
{levels}

Two 3x3 convolutions (strides {stem}) come before, a 3x3 convolution of stride 2 opens each further level; MLP ratio
{mlp_ratio}. {large} of {blocks} blocks see maps more than twice as wide as their window.

## What neighborhood attention contributes

| | top-1 |
|---|---:|
| {name} | {accuracy:.2f}% |
{ablations}

In the ablation every token attends to itself alone: the attention's output is its value, and only the convolutions
that open the levels still mix tokens.{untrained}

## Accuracy by class

Rows are true classes, columns predicted ones.

{confusion}

## Data

The 60,000 training images, and the {images:,} test images for the measurements above and the log; 28x28 pixels, grey on
black, MIT licence (Zalando SE). Intensities from 0 to 1 are standardised with mean {mean:.4f} and deviation {std:.4f}.

## Recipe

`python -m {package}.train --data DIR --out DIR`, whose defaults are this recipe:

{recipe}

Trained on CPUs, by natten-core's own kernels:

{sittings}

Every epoch's numbers are in [`{name}.jsonl`]({name}.jsonl).

{exploration}## Limits

The images show single garments, centred, without background; others are classified too, with no sign that something
is wrong. The weights are for demonstration and tests, not for decisions about anything. The most frequent confusions:

{confusions}
"""


def write_card(data: str | Path, run: str | Path, ablation: str | Path | None, into: str | Path) -> dict[str, Any]:
    """Copy a run's weights and log into a folder, with a model card.

    Args:
        data: folder of the data set's IDX files.
        run: folder of a finished run.
        ablation: folder of a finished run without attention, or None if there is none.
        into: folder for `MODEL.fashion_mnist.{safetensors,jsonl,md}`.

    Returns:
        The measured accuracies.

    Raises:
        ValueError: where a run is unfinished or the wrong one, or the weights do not give its log's accuracy.
    """
    run, into = Path(run), Path(into)
    starts, epochs = read_log(run / LOG)
    recipe = starts[0]["recipe"]
    if recipe["without_attention"] or recipe["hold_out"] or recipe["epochs"] != len(epochs):
        raise ValueError(
            f"{run} is no finished run on all training images with attention: {len(epochs)} epochs, {recipe}."
        )
    name = f"{recipe['model']}.{TAG}"
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(run / WEIGHTS)})
    assert isinstance(model, NeighborhoodTransformer)

    test = load_split(data, train=False)
    predictions = logits(model, test.images).argmax(1)
    matrix = confusion_matrix(predictions, test.labels)
    result = {"accuracy": accuracy(predictions, test.labels)}
    if abs(result["accuracy"] - epochs[-1]["test_accuracy_ema"]) > 0.05:
        raise ValueError(
            f"the weights reach {result['accuracy']:.2f}%, the log says {epochs[-1]['test_accuracy_ema']:.2f}%."
        )
    result["replaced"] = accuracy(logits(without_attention(model), test.images), test.labels)
    ablations = [f"| attention replaced by the identity in these weights | {result['replaced']:.2f}% |"]
    untrained = " A model trained that way from the\nstart has not been measured; it may lose far less."
    if ablation is not None:
        untrained = ""
        result["trained_without"] = _ablation(Path(ablation), recipe)
        ablations.append(f"| trained without attention, by the same recipe | {result['trained_without']:.2f}% |")

    card = _CARD.format(
        name=name,
        package=PACKAGE,
        parameters=count_parameters(model),
        macs=count_macs(model, SIDE) / 1e6,
        accuracy=result["accuracy"],
        images=len(test.labels),
        epochs=len(epochs),
        ablations="\n".join(ablations),
        untrained=untrained,
        confusion=table(matrix),
        confusions=_confusions(matrix),
        mean=model.pretrained_cfg["mean"][0],
        std=model.pretrained_cfg["std"][0],
        recipe=_recipe_list(recipe),
        sittings=_sittings(starts, epochs),
        exploration=_EXPLORATION.read_text() + "\n" if _EXPLORATION.exists() else "",
        **_architecture(model),
    )
    into.mkdir(parents=True, exist_ok=True)
    (into / f"{name}.md").write_text(card)
    shutil.copyfile(run / WEIGHTS, into / f"{name}.safetensors")
    shutil.copyfile(run / LOG, into / f"{name}.jsonl")
    return result


def read_log(path: str | Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Take a training log apart.

    Returns:
        The lines that were written when the run was started or resumed, and one line for each epoch.
    """
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return [line for line in lines if "recipe" in line], [line for line in lines if "epoch" in line]


def write_sample(data: str | Path, weights: str | Path, model: str, path: str | Path, per_class: int = 50) -> None:
    """Write the first test images of every class, their labels and a model's logits for them.

    Args:
        data: folder of the data set's IDX files.
        weights: safetensors file of the model.
        model: its registered name.
        path: npz file to write: `images` uint8 `[N, 28, 28]`, `labels` uint8 `[N]`, `index` int64 `[N]` (their places
            in the test set) and `logits` fp32 `[N, classes]`.
        per_class: images of each class.
    """
    test = load_split(data, train=False)
    index = torch.cat([(test.labels == label).nonzero()[:per_class, 0] for label in range(len(LABELS))]).sort().values
    sample = test.take(index)
    output = logits(
        timm.create_model(model, pretrained=True, pretrained_cfg_overlay={"file": str(weights)}), sample.images
    )
    np.savez_compressed(
        path,
        images=sample.images.numpy(),
        labels=sample.labels.numpy().astype(np.uint8),
        index=index.numpy(),
        logits=output.numpy(),
    )


def _ablation(run: Path, recipe: Mapping[str, Any]) -> float:
    starts, epochs = read_log(run / LOG)
    wanted = {**recipe, "without_attention": True}
    if starts[0]["recipe"] != wanted or len(epochs) != wanted["epochs"]:
        raise ValueError(f"{run} is no finished run of the same recipe with --without-attention.")
    return float(epochs[-1]["test_accuracy_ema"])


def _confusions(matrix: Tensor, count: int = 3) -> str:
    """The largest counts off the diagonal, as a list in words."""
    errors = matrix - matrix.diag().diag()
    return "\n".join(
        f"- {LABELS[at // len(LABELS)]} taken for {LABELS[at % len(LABELS)]} ({errors.flatten()[at]} times)"
        for at in errors.flatten().topk(count).indices.tolist()
    )


def _sittings(starts: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]]) -> str:
    """A list: which epochs were trained on what, and how long it took."""
    ends = [start["from_epoch"] for start in starts[1:]] + [len(epochs)]
    lines = []
    for start, end in zip(starts, ends, strict=True):
        if end == start["from_epoch"]:
            continue
        version = "from a source tree" if "unknown" in start["natten_core"] else start["natten_core"]
        minutes = sum(line["seconds"] for line in epochs[start["from_epoch"] : end]) / 60
        lines.append(
            f"- epochs {start['from_epoch'] + 1} to {end} in {minutes:.1f} minutes, measurements included, on"
            f" {start['threads']} threads, {start['instruction_set']} kernels (natten-core {version},"
            f" torch {start['torch']}, timm {start['timm']}, Python {start['python']})"
        )
    return "\n".join(lines)


def _recipe_list(recipe: Mapping[str, Any]) -> str:
    flat = {**recipe, **recipe["augmentation"]}
    return "\n".join(f"- {key.replace('_', ' ')}: {flat[key]}" for key in flat if not isinstance(flat[key], dict))


def _architecture(model: Any) -> dict[str, Any]:
    """The table of levels, and how many blocks see maps more than twice their window."""
    sizes: list[torch.Size] = []
    hooks = [level.register_forward_hook(lambda _, __, output: sizes.append(output.shape)) for level in model.levels]
    with torch.inference_mode():
        model(torch.zeros(1, model.in_chans, SIDE, SIDE))
    for hook in hooks:
        hook.remove()
    rows, large, blocks = [], 0, 0
    for i, (level, size) in enumerate(zip(model.levels, sizes, strict=True)):
        attention = [block.attn for block in level.blocks]
        window = attention[0].kernel_size[0]
        dilations = ", ".join(str(one.dilation[0]) for one in attention)
        heads = attention[0].num_heads
        rows.append(f"| {i + 1} | {size[1]}x{size[2]} | {size[3]} | {heads} | {window}x{window} | {dilations} |")
        blocks += len(attention)
        large += len(attention) if size[1] > 2 * window else 0
    first = model.levels[0].blocks[0]
    return {
        "levels": "\n".join(rows),
        "stem": " and ".join(str(layer.stride[0]) for layer in model.patch_embed.proj),
        "mlp_ratio": first.mlp.fc1.out_features / first.mlp.fc1.in_features,
        "large": large,
        "blocks": blocks,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; `arguments` as in `sys.argv[1:]`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {PACKAGE}.card", description="Put a finished run into the package."
    )
    parser.add_argument("--data", required=True, help="folder of the data set's IDX files")
    parser.add_argument("--run", required=True, help="folder of the finished run")
    parser.add_argument("--ablation", help="folder of a finished run with --without-attention")
    parser.add_argument("--into", default=str(Path(__file__).parents[2] / "weights"), help="where the results go")
    parser.add_argument("--sample", metavar="FILE", help="also write test images with logits to this npz file")
    options = parser.parse_args(arguments)
    try:
        result = write_card(options.data, options.run, options.ablation, options.into)
        if options.sample:
            recipe = read_log(Path(options.run) / LOG)[0][0]["recipe"]
            write_sample(options.data, Path(options.run) / WEIGHTS, f"{recipe['model']}.{TAG}", options.sample)
        print(json.dumps(result))
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
