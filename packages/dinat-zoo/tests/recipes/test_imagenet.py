"""The ImageNet recipe in miniature, on generated images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import dinat_zoo
from dinat_zoo._weights_file import read
from dinat_zoo.recipes.imagenet import RECIPES, Recipe, Settings, evaluate, fit, recipe_of
from dinat_zoo.recipes.imagenet.data import eval_loader, open_dataset
from dinat_zoo.recipes.imagenet.run import LAST, load_initial
from dinat_zoo.recipes.imagenet.training import Training

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, Any] = {"embed_dim": 16, "depths": (1, 1, 1), "num_heads": (1, 2, 4), "dilations": (1, 1, 1)}
RECIPE = Recipe(
    epochs=3, warmup_epochs=1, cooldown_epochs=0, batch_size=8, lr=3e-3, warmup_lr=1e-4, auto_augment="", ema=0.9
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, of dark and of bright images."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for half, count in (("train", 12), ("val", 5)):
        for name, low in (("dark", 0), ("bright", 180)):
            (root / half / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(low, low + 70, (28, 28), dtype=np.uint8)
                Image.fromarray(pixels).save(root / half / name / f"{i}.png")
    return root


def settings(folder: Path, output: Path, **changes: Any) -> Settings:
    own = {"batch_size": 4, "workers": 0, "model_arguments": SMALL, **changes}
    return Settings("dinat_pico", str(folder), output, **own)


def weights(output: Path) -> dict[str, torch.Tensor]:
    saved: dict[str, torch.Tensor] = read(output / LAST)["state_dict"]
    return saved


def test_recipes_are_the_published_ones() -> None:
    assert RECIPES.keys() == set(dinat_zoo.list_models())
    tiny, base, large = map(recipe_of, ("dinat_tiny", "vitrpb_base", "dinat_large_384"))
    assert (tiny.epochs, tiny.warmup_epochs, tiny.cooldown_epochs, tiny.batch_size) == (300, 20, 10, 1024)
    assert (tiny.lr, tiny.weight_decay, tiny.mixup, tiny.cutmix, tiny.ema) == (1e-3, 0.05, 0.8, 1.0, None)
    assert (base.warmup_epochs, base.ema) == (50, 0.9998)
    assert (large.epochs, large.batch_size, large.lr, large.schedule, large.mixup) == (30, 512, 5e-5, "linear", 0)
    assert (large.weight_decay, recipe_of("dinat_large").weight_decay) == (1e-10, 1e-4)
    assert recipe_of("dinat_large_21k").batch_size == 4096


def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(settings(folder, tmp_path / "whole"), RECIPE)

    def stop(line: dict[str, Any]) -> None:
        if line["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(settings(folder, tmp_path / "split"), RECIPE, stop)
    with pytest.raises(FileExistsError, match="resume it"):
        fit(settings(folder, tmp_path / "split"), RECIPE)
    with pytest.raises(ValueError, match=r"lr was 0\.003, is 0\.1"):
        fit(settings(folder, tmp_path / "split", resume=True), replace(RECIPE, lr=0.1))
    split = fit(settings(folder, tmp_path / "split", resume=True), RECIPE)
    for key in ("train_loss", "lr", "top1", "top1_ema"):
        assert [line[key] for line in whole] == [line[key] for line in split]
    one, two = (read(tmp_path / name / LAST) for name in ("whole", "split"))
    for part in ("state_dict", "state_dict_ema"):
        assert all(torch.equal(one[part][key], two[part][key]) for key in one[part])
    model = timm.create_model("dinat_pico", num_classes=2, **SMALL)
    dinat_zoo.load_checkpoint(model, tmp_path / "whole" / LAST)
    assert torch.equal(model.head.fc.weight, one["state_dict_ema"]["head.fc.weight"])


def test_the_loss_falls_on_separable_data(folder: Path, tmp_path: Path) -> None:
    plain = replace(RECIPE, epochs=8, mixup=0.0, cutmix=0.0, smoothing=0.0, erase=0.0, ema=None)
    log = fit(settings(folder, tmp_path / "run"), plain)
    assert log[-1]["train_loss"] < 0.3 * log[0]["train_loss"]
    assert log[-1]["top1"] == 100
    assert log[0]["lr"] < plain.lr
    assert log[-1]["lr"] < log[4]["lr"]
    assert (tmp_path / "run" / "classes.txt").read_text().split() == ["bright", "dark"]
    assert [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()] == log


def test_accumulated_batches_make_one_update() -> None:
    """Without mixing, one batch of 8 and two of 4 do the same to the weights."""
    still = replace(RECIPE, warmup_epochs=0, mixup=0.0, cutmix=0.0)
    images, labels = torch.randn(8, 1, 28, 28), torch.arange(8) % 2
    trained = []
    for parts in (1, 2):
        torch.manual_seed(0)
        model: Any = timm.create_model("dinat_pico", num_classes=2, drop_path_rate=0.0, **SMALL)
        training = Training(model, still, list(zip(images.chunk(parts), labels.chunk(parts), strict=True)), parts, None)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        training.run_epoch(0)
        trained.append([new.detach() - old for new, old in zip(model.parameters(), before, strict=True)])
    for one, two in zip(*trained, strict=True):
        assert one.abs().max() > 0
        # AdamW's first step is the sign of the gradient, whose rounding decides where it is all but 0.
        assert ((one - two).abs() < 1e-4).float().mean() > 0.95


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_and_checkpointing(folder: Path, tmp_path: Path, amp: str) -> None:
    """Three epochs, the last of them in a resumed run: the loss scale is part of what is resumed."""
    plain = replace(RECIPE, mixup=0.0, cutmix=0.0, erase=0.0, drop_path=0.0)
    whole = fit(settings(folder, tmp_path / "whole", amp=amp, grad_checkpointing=True), plain)
    full = fit(settings(folder, tmp_path / "full"), plain)
    assert whole[-1]["train_loss"] == pytest.approx(full[-1]["train_loss"], rel=0.1)

    def stop(line: dict[str, Any]) -> None:
        if line["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(settings(folder, tmp_path / "split", amp=amp, grad_checkpointing=True), plain, stop)
    split = fit(settings(folder, tmp_path / "split", amp=amp, grad_checkpointing=True, resume=True), plain)
    assert [line["train_loss"] for line in whole] == [line["train_loss"] for line in split]


def test_a_loss_that_is_not_finite_stops_the_run(folder: Path, tmp_path: Path) -> None:
    wild = replace(RECIPE, lr=1e30, warmup_epochs=0, warmup_lr=1e30, ema=None)
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at update \d of epoch 1; a lower lr"):
        fit(settings(folder, tmp_path / "run"), wild)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 3}, "batch of 8 images must be a multiple"),
        ({"amp": "int8"}, "amp is 'int8'"),
        ({"num_classes": 1}, "the data has 2 classes"),
        ({"data": "nowhere"}, "data is 'nowhere'"),
    ],
)
def test_settings_that_cannot_be_right(folder: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(replace(settings(folder, tmp_path / "run"), **changes), RECIPE)


def test_fine_tuning_interpolates_biases_and_takes_a_new_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = timm.create_model("dinat_large", num_classes=7, **SMALL_3)
    torch.save(small.state_dict(), tmp_path / "small.pth")
    model: Any = timm.create_model("dinat_large_384_11x11", num_classes=3, **SMALL_3)
    load_initial(model, str(tmp_path / "small.pth"))
    rpb = small.levels[0].blocks[0].attn.rpb
    assert rpb.shape[1:] == (13, 13)
    wanted = dinat_zoo.interpolate_rpb(rpb.detach(), 11)
    torch.testing.assert_close(model.levels[0].blocks[0].attn.rpb.detach(), wanted)
    assert model(torch.randn(1, 3, 96, 96)).shape == (1, 3)


SMALL_3: dict[str, Any] = {
    "embed_dim": 16,
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 2, 4, 8),
    "dilations": (1, 1, 1, 1),
}

SCRIPT = """
import os, sys, torch
from pathlib import Path
from dinat_zoo.recipes.imagenet import Recipe, Settings
import dinat_zoo.recipes.imagenet.run as fit
data, output = sys.argv[1:]
made = []
own = fit.Training
fit.Training = lambda *arguments: made.append(own(*arguments)) or made[0]
small = dict(embed_dim=16, depths=(1, 1, 1), num_heads=(1, 2, 4), dilations=(1, 1, 1))
recipe = Recipe(epochs=2, warmup_epochs=0, cooldown_epochs=0, batch_size=8, auto_augment="")
settings = Settings("dinat_pico", data, Path(output), batch_size=2, workers=0, model_arguments=small)
log = fit.fit(settings, recipe)
torch.save((made[0].model.state_dict(), log), f"{output}/rank{os.environ['RANK']}.pth")
torch.distributed.destroy_process_group()
"""


def torchrun(*command: object) -> subprocess.CompletedProcess[str]:
    """Two processes on this machine's CPU, by the launcher that torch brings."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_two_processes_end_with_the_same_weights(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "script.py").write_text(SCRIPT)
    done = torchrun(tmp_path / "script.py", folder, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    (one, log), (two, other) = (torch.load(tmp_path / "run" / f"rank{rank}.pth") for rank in "01")
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert [line["top1"] for line in log] == [line["top1"] for line in other]
    assert all(torch.equal(one[key], value) for key, value in weights(tmp_path / "run").items())
    model: Any = timm.create_model("dinat_pico", num_classes=2, **SMALL)
    model.load_state_dict(one)
    indices = {"bright": 0, "dark": 1}
    alone = eval_loader(open_dataset(str(folder), False, 1, indices=indices), model, 3, 0, torch.device("cpu"))
    found = evaluate(model, alone, torch.device("cpu"))
    assert (found["images"], found["top1"]) == (10, pytest.approx(log[-1]["top1"]))
    assert found["loss"] == pytest.approx(log[-1]["loss"], rel=1e-5)


def test_the_command_under_torchrun(folder: Path, tmp_path: Path) -> None:
    """As docs/how-to/train.md has it; one process alone speaks, and an error has no traceback of ours."""
    program = Path(sys.executable).parent / "dinat-zoo"
    sizes = ("--global-batch-size", 8, "--batch-size", 2, "--workers", 0, "--device", "cpu")
    schedule = ("--epochs", 2, "--warmup-epochs", 0, "--cooldown-epochs", 0)
    command = ("--no-python", program, "train", folder, "--model", "dinat_pico", "--output", tmp_path / "run", "--json")
    done = torchrun(*command, *sizes, *schedule)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all(0 <= line["top1"] <= 100 and line["train_loss"] > 0 for line in lines)
    written = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert written == lines
    saved = read(tmp_path / "run" / LAST)
    assert (vars(saved["args"])["processes"], vars(saved["args"])["batch_size"]) == (2, 8)
    model = timm.create_model("dinat_pico", num_classes=2)
    dinat_zoo.load_checkpoint(model, tmp_path / "run" / LAST)

    again = torchrun(*command, *sizes, *schedule)
    assert again.returncode != 0
    assert "dinat-zoo: error: output is " in again.stderr
    assert "has a checkpoint: resume it, or take another" in again.stderr
    assert "FileExistsError" not in again.stderr
