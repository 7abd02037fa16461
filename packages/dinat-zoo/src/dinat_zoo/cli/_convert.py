"""`dinat-zoo convert`: a checkpoint in one format becomes a file in another."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dinat_zoo._checkpoint import read_weights
from dinat_zoo._download import sha256
from dinat_zoo._formats import BACKBONE, convert, format_of
from dinat_zoo._pretrained import find
from dinat_zoo._sources import resolve
from dinat_zoo._weights_file import SUFFIXES, WeightsError, write


def run(source: str, output: Path, *, to: str, model: str | None, backbone: bool, as_json: bool) -> int:
    """Convert one checkpoint.

    Args:
        source: what `load_checkpoint` takes: a file, a URL, a hub repository, a published checkpoint's name.
        output: the file to write, over what may be there; its suffix decides between safetensors and torch's format.
        to: the names of the parameters, "original", "timm" or "hf".
        model: the architecture's name, of which Hugging Face's format needs to know whether it is "nat" or "dinat".
        backbone: leave out the heads of dense prediction, and `backbone.` in front of the names.
        as_json: print one JSON document.

    Returns:
        The exit code: 0; 1 if the weights cannot be had, converted or written; 2 if an argument cannot be right.
    """
    if output.suffix not in SUFFIXES:
        return _fail(f"the suffix of {str(output)!r} names no format; known are {', '.join(SUFFIXES)}", 2)
    row = find(source)
    prefix = (model or (row.model if row else "")).split("_")[0]
    if model is not None and prefix not in ("nat", "dinat", "vitrpb"):
        return _fail(f"--model is {model!r}; it must be a model of `dinat-zoo list`, or just nat or dinat", 2)
    try:
        weights = read_weights(resolve(source))
        if backbone:
            weights = {
                key.removeprefix(BACKBONE): value for key, value in weights.items() if key.startswith(BACKBONE)
            } or weights
        converted = convert(weights, to, prefix)
        write(converted, output)
    except WeightsError as error:
        return _fail(str(error), 1)
    document = {
        "input": source,
        "output": str(output),
        "from": format_of(weights),
        "to": to,
        "dense": any(key.startswith(BACKBONE) for key in converted),
        "tensors": len(converted),
        "parameters": sum(value.numel() for value in converted.values() if value.is_floating_point()),
        "sha256": sha256(output),
    }
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        print(f"{output}: {document['tensors']} tensors, {document['from']} to {to}, sha256 {document['sha256']}")
    return 0


def _fail(message: str, code: int) -> int:
    print(f"dinat-zoo: error: {message}", file=sys.stderr)
    return code
