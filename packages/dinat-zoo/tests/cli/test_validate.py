from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dinat_zoo.fashion_mnist import LABELS

Command = Callable[..., tuple[int, Any, str]]
Arrays = dict[str, NDArray[Any]]
QUICK = ("--workers", 0)


@pytest.fixture(scope="module")
def sample(data: Path) -> Arrays:
    """Test images of Fashion-MNIST with the bundled weights' logits."""
    return dict(np.load(data / "fashion-mnist-sample.npz"))


def top(sample: Arrays, count: int, part: slice | NDArray[Any] = slice(None)) -> float:
    ranked = sample["logits"][part].argsort(1)[:, ::-1][:, :count]
    return float(100 * (ranked == sample["labels"][part][:, None]).any(1).mean())


def write_folders(root: Path, sample: Arrays, names: list[str], part: NDArray[Any]) -> None:
    for i in part.tolist():
        folder = root / names[sample["labels"][i]].replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample["images"][i]).save(folder / f"{i}.png")


def test_the_data_sets_own_files(command: Command, sample: Arrays, tmp_path: Path) -> None:
    images, labels = sample["images"], sample["labels"]
    header = b"".join(side.to_bytes(4, "big") for side in images.shape)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + header + images.tobytes())
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + header[:4] + labels.tobytes())
    code, document, _ = command("validate", tmp_path, *QUICK)
    assert code == 0
    assert document["images"] == 500
    assert document["top1"] == pytest.approx(top(sample, 1), abs=0.21)  # one image in 500
    assert document["top5"] == pytest.approx(top(sample, 5), abs=0.21)
    assert document["classes"] == 10


def test_folders_named_as_the_labels_find_their_classes_in_any_number(
    command: Command, sample: Arrays, tmp_path: Path
) -> None:
    """Their alphabetical order is not that of the labels; T-shirt/top cannot be a folder's name and is left out."""
    part = np.flatnonzero(np.isin(sample["labels"], (1, 5, 9)))
    write_folders(tmp_path / "val", sample, list(LABELS), part)
    code, document, _ = command("validate", tmp_path, *QUICK, "--batch-size", 40)
    assert code == 0
    assert (document["images"], document["classes"]) == (150, 10)
    assert document["top1"] == pytest.approx(top(sample, 1, part), abs=0.7)
    assert document["top1"] > 80
    restricted = command("validate", tmp_path, *QUICK, "--only-present")[1]
    assert restricted["classes"] == 3
    assert restricted["top1"] >= document["top1"]
    assert restricted["top5"] == 100


def test_a_file_says_the_order_of_the_classes(command: Command, sample: Arrays, tmp_path: Path) -> None:
    names = [f"c{9 - i}" for i in range(10)]
    part = np.arange(0, 500, 5)
    write_folders(tmp_path / "data", sample, names, part)
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n")
    code, document, _ = command("validate", tmp_path / "data", *QUICK, "--classes", tmp_path / "classes.txt")
    assert code == 0
    assert document["top1"] == pytest.approx(top(sample, 1, part), abs=1.1)
    (tmp_path / "classes.txt").write_text("c0\n")
    code, _, err = command("validate", tmp_path / "data", *QUICK, "--classes", tmp_path / "classes.txt")
    assert code == 2
    assert "folders that name no class: c1, c2, c3, 9 in all" in err


def test_errors(command: Command, sample: Arrays, tmp_path: Path) -> None:
    write_folders(tmp_path / "halves" / "train", sample, list("abcdefghij"), np.arange(20))
    few = tmp_path / "few"
    write_folders(few, sample, list("abcdefghij"), np.flatnonzero(sample["labels"] < 2))
    (tmp_path / "empty").mkdir()
    for data, message in (
        (few, "which has 2 classes; the model has 10: say with --classes"),
        (tmp_path / "nowhere", "it must be a folder"),
        (tmp_path / "empty", "data is"),
        (tmp_path / "halves", "has training images but none in a folder val"),
        ("torch/nothing", "cannot be opened"),
    ):
        code, document, err = command("validate", data, *QUICK)
        assert (code, document) == (2, None), message
        assert message in err
    code, _, err = command("validate", few, "--checkpoint", "nowhere.pth")
    assert code == 1
