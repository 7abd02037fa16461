"""The page docs/reference/models.md: what is known of every model, from the registry and from what the tests check.

Without arguments it prints the page; `--write` writes it. tests/test_ci.py asks that the page is up to date. Nothing in
the table is written by hand:

- parameters and multiply-accumulates are counted on the models; the column after them says whether the authors' code
  has the same (tests/test_counts.py);
- logits: the sizes at which they are those of the authors' code with the same weights (tests/test_golden.py);
- timm's tests: how many of its tests/test_models.py passed when `nox -s timm_tests -- --record '*'` last ran;
- formats: a model's names and shapes are converted to the format and back, here, and transformers has such a model;
- published: the files of weights/published.csv for this architecture, in all or as a backbone.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import timm

from dinat_zoo import WeightsError, count_macs, count_parameters, list_models
from dinat_zoo._formats import FORMATS, convert
from dinat_zoo._hugging_face import config_of
from dinat_zoo._pretrained import published

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "packages/dinat-zoo/tests/data"
PAGE = ROOT / "docs/reference/models.md"
TITLE = "# The models, and what is tested of each"
TEXT = """
Made by `python ci/model_table.py --write`; the script says where each column comes from. MACs are multiply-accumulates
of one image of the input size, as fvcore counts them. *Equal* means to the last parameter and the last
multiply-accumulate; the logits agree to 1e-4 of the largest one at the sizes given. Those of the authors' code are
known for a model of each family; the others differ from it in numbers alone. Of timm's tests three are for colour
images of any size, which `dinat_pico` and the ViT with bias do not take, and two are for weights that are here, which
are those of `dinat_pico`.
"""
HEADER = ["model", "input", "parameters", "MACs", "authors' counts", "authors' logits", "timm's tests"]
HEADER += ["formats", "published"]
HEADS = {"linear": "classifier", "mask_rcnn": "Mask R-CNN", "cascade_mask_rcnn": "Cascade Mask R-CNN"}
HEADS |= {"upernet": "UPerNet", "mask2former": "Mask2Former", "oneformer": "OneFormer"}


def table(name: str) -> list[dict[str, str]]:
    """Reads a table of the tests' data."""
    with (DATA / name).open(newline="") as file:
        return list(csv.DictReader(file))


def formats(name: str, model: Any) -> list[str]:
    """Returns the formats that hold such a model, and from which its weights come back, names and shapes alike."""
    weights = model.state_dict()
    found = []
    for target in FORMATS:
        try:
            if target == "hf":
                config_of(model)
            back = convert(convert(weights, target, name.split("_")[0]), "timm")
        except WeightsError:
            continue
        if {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in weights.items()}:
            found.append(target)
    return found


def files(name: str) -> str:
    """Returns how many files were published for an architecture, by their heads."""
    counts = Counter(row.head for row in published() if row.model == name)
    return ", ".join(HEADS[head] + (f" ({count})" if count > 1 else "") for head, count in counts.items()) or "none"


def row(name: str, model: Any) -> tuple[str, ...]:
    """Returns a model's line."""
    size = model.pretrained_cfg["input_size"]
    parameters, macs = count_parameters(model), count_macs(model, size[1:])
    measured = {entry["model"]: (int(entry["params"]), int(entry["macs"])) for entry in table("measured.csv")}
    counts = ("equal" if measured[name] == (parameters, macs) else "DIFFERENT") if name in measured else "none known"
    golden = [case.split("@")[1] for case in np.load(DATA / "models.npz") if case.split("@")[0] == name]
    timms = {entry["model"]: entry for entry in table("timm-tests.csv")}.get(name)
    ran = "not run"
    if timms:
        ran = f"{timms['passed']} passed" + (f", {timms['failed']} FAILED" if timms["failed"] != "0" else "")
    return (
        f"`{name}`",
        "x".join(map(str, size)),
        f"{parameters:,}",
        f"{macs / 1e9:.3f} G",
        counts,
        ", ".join(golden) or "none known",
        ran,
        ", ".join(formats(name, model)),
        files(name),
    )


def page() -> str:
    """Returns the whole page."""
    models = {name: timm.create_model(name, device="meta") for name in list_models()}
    rows = [row(name, model) for name, model in models.items()]
    releases = sorted({entry["timm"] for entry in table("timm-tests.csv")})
    lines = [
        TITLE,
        TEXT,
        f"timm's tests are those of its release {' and '.join(releases)}.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + " --- |" * len(HEADER),
        *("| " + " | ".join(cells) + " |" for cells in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page())
    else:
        print(page(), end="")
