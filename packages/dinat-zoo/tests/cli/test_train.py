from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinat_zoo.cli import main

Command = Callable[..., tuple[int, Any, str]]
QUICK = ["--model", "dinat_pico", "--batch-size", "4", "--global-batch-size", "8", "--workers", "0", "--device", "cpu"]
SHORT = ["--epochs", "2", "--warmup-epochs", "1", "--cooldown-epochs", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for half, count in (("train", 8), ("val", 4)):
        for name, low in (("bright", 180), ("dark", 0)):
            (root / half / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(random.integers(low, low + 70, (28, 28), dtype=np.uint8)).save(
                    root / half / name / f"{i}.png"
                )
    return root


def lines(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_training_its_resumption_and_the_weights_elsewhere(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Command
) -> None:
    run = ["train", str(folder), "--output", str(tmp_path / "run"), *QUICK, *SHORT]
    assert main([*run, "--json"]) == 0
    log = lines(capsys)
    assert [line["epoch"] for line in log] == [1, 2]
    assert main(run) == 2
    assert "which has a checkpoint: resume it" in capsys.readouterr().err
    assert main([*run, "--resume", "--lr", "0.1"]) == 2
    assert "is of another run: lr was" in capsys.readouterr().err
    assert main([*run, "--resume"]) == 0
    assert capsys.readouterr().out == ""  # it is done
    checkpoint, names = tmp_path / "run" / "last.pth.tar", tmp_path / "run" / "classes.txt"
    own = command("validate", folder, "--checkpoint", checkpoint, "--classes", names, "--workers", 0)[1]
    assert own["top1"] == pytest.approx(log[-1]["top1"])
    assert own["loss"] == pytest.approx(log[-1]["loss"], rel=1e-4)


def test_text_and_initial_weights(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["train", str(folder), "--output", str(tmp_path / "run"), *QUICK]
    one = ["--epochs", "1", "--warmup-epochs", "0", "--cooldown-epochs", "0"]
    assert main([*run, *one, "--initial", "nowhere.pth"]) == 1
    assert "'nowhere.pth' is not a file" in capsys.readouterr().err
    assert main([*run, *one]) == 0
    assert capsys.readouterr().out.startswith("epoch 1  loss ")
    again = ["train", str(folder), "--output", str(tmp_path / "again"), *QUICK, *one]
    assert main([*again, "--initial", str(tmp_path / "run" / "last.pth.tar")]) == 0


def test_the_recipe_is_shown_and_scaled(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--model", "dinat_tiny", "--show"]) == 0
    recipe = json.loads(capsys.readouterr().out)
    assert (recipe["lr"], recipe["batch_size"]) == (1e-3, 1024)
    assert main(["train", "--model", "dinat_tiny", "--show", "--global-batch-size", "256", "--mixup", "0"]) == 0
    recipe = json.loads(capsys.readouterr().out)
    assert (recipe["lr"], recipe["batch_size"], recipe["mixup"]) == (2.5e-4, 256, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "3"], "warmup_epochs is 20; it must be below epochs"),
        (["--batch-size", "3"], "batch_size is 3 for each of 1 processes"),
        (["--device", "abacus"], "device is 'abacus'; it must be one of torch's"),
        (["--global-batch-size", "64"], "batch_size is 64 images per update; the training data has fewer"),
        (["--lr", "1e30", "--epochs", "1", "--warmup-epochs", "0"], "the loss is "),
    ],
)
def test_errors(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["train", str(folder), "--output", str(tmp_path / "run"), *QUICK, *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["train", "--model", "dinat_tiny"]) == 2
    assert "data is missing" in capsys.readouterr().err
    assert main(["train", str(folder), "--model", "dinat_tiny"]) == 2
    assert "output is missing" in capsys.readouterr().err
