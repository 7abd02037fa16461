"""The recipe's parts, and a training run in miniature on made-up images."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from dinat_zoo.recipes.fashion_mnist import card, evaluate, train
from dinat_zoo.recipes.fashion_mnist.augment import Augmentation
from dinat_zoo.recipes.fashion_mnist.data import load_split, read_idx
from dinat_zoo.recipes.fashion_mnist.muon import Muon, orthogonalize
from dinat_zoo.recipes.fashion_mnist.train import Recipe, fit

SMALL = Recipe(epochs=3, batch_size=16, warmup=1, drop_path=0.2)
STILL = Augmentation(shift=0, affine=0, erase=0)


def write_idx(path: Path, values: Tensor) -> None:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(side.to_bytes(4, "big") for side in values.shape)
    content = header + values.to(torch.uint8).numpy().tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of 40 + 20 images in which the row of a bright bar gives the class."""
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path / "data"
    folder.mkdir()
    for prefix, count, suffix in (("train", 40, ".gz"), ("t10k", 20, "")):
        labels = torch.arange(count) % 10
        images = torch.randint(0, 60, (count, 28, 28), generator=generator)
        images[torch.arange(count), 4 + 2 * labels] = 255
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
    return folder


def test_idx_files_plain_and_gzipped(tmp_path):
    values = torch.arange(24).view(2, 3, 4)
    for name in ("plain", "zipped.gz"):
        write_idx(tmp_path / name, values)
        assert torch.equal(read_idx(tmp_path / name), values.to(torch.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "00000d01"),
        (b"\0\0\x08\x01\0\0\0\x05ab", "10 bytes"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "file")


def test_missing_files_are_named_with_a_way_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"t10k-images-idx3-ubyte\.gz in .*dataset-fashion-mnist"):
        load_split(tmp_path, train=False)


def test_images_and_labels_must_belong_together(folder):
    write_idx(folder / "t10k-labels-idx1-ubyte", torch.zeros(19))
    with pytest.raises(ValueError, match=r"\[20, 28, 28\]"):
        load_split(folder, train=False)
    write_idx(folder / "t10k-labels-idx1-ubyte", torch.full((20,), 10))
    with pytest.raises(ValueError, match="a label is 10"):
        load_split(folder, train=False)


def test_augmentation_with_everything_off_mirrors_at_most():
    images = torch.rand(32, 1, 28, 28)
    output = STILL(images, torch.Generator().manual_seed(1))
    same = (output - images).abs().amax((1, 2, 3)) < 1e-5
    mirrored = (output - images.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    assert (same ^ mirrored).all()
    assert same.any()
    assert mirrored.any()


def test_shifts_are_whole_pixels_and_reach_both_ends():
    images = torch.zeros(256, 1, 28, 28)
    images[:, :, 14, 14] = 1
    output = Augmentation(shift=2, affine=0, erase=0)(images, torch.Generator().manual_seed(2))
    torch.testing.assert_close(output.amax((1, 2, 3)), torch.ones(256), atol=1e-4, rtol=0)
    places = output.flatten(1).argmax(1)
    assert set((places // 28).tolist()) == {12, 13, 14, 15, 16}
    assert set((places % 28).tolist()) == set(range(11, 17))  # 13 is 14's mirror image


def test_erasing_replaces_one_rectangle_of_the_stated_area():
    images = torch.full((400, 1, 28, 28), 2.0)
    erase = Augmentation(shift=0, affine=0, erase=0.5, erase_area=(0.1, 0.2))
    changed = (erase(images, torch.Generator().manual_seed(3)) < 1.5)[:, 0]
    assert 150 < changed.any(2).any(1).sum() < 250
    for mask in changed[changed.any(2).any(1)]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None, :])
        # A side's rounding to pixels changes the area by up to one row and one column.
        assert 0.1 * 784 - 50 < mask.sum() < 0.2 * 784 + 50


def test_augmentation_depends_on_its_generator_alone():
    images = torch.rand(8, 1, 28, 28)
    one, two = (Augmentation()(images, torch.Generator().manual_seed(4)) for _ in range(2))
    other = Augmentation()(images, torch.Generator().manual_seed(5))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_without_attention_blocks_work_token_by_token():
    torch.manual_seed(0)
    model = timm.create_model("dinat_pico").eval()
    ablated = evaluate.without_attention(model)
    tokens = torch.randn(1, 14, 14, model.embed_dim)
    elsewhere = tokens.clone()
    elsewhere[:, 7, 7] = torch.randn(model.embed_dim)

    def reach(block: torch.nn.Module) -> int:
        with torch.inference_mode():
            return int((block(tokens) - block(elsewhere)).abs().amax(-1).gt(1e-6).sum())

    assert reach(model.levels[0].blocks[0]) > 1
    assert reach(ablated.levels[0].blocks[0]) == 1


def test_without_attention_changes_nothing_where_all_values_are_equal():
    torch.manual_seed(0)
    model = timm.create_model("dinat_pico").eval()
    image = torch.randn(2, 1, 28, 28)
    assert not torch.allclose(evaluate.without_attention(model)(image), model(image))
    for level in model.levels:
        for block in level.blocks:
            block.attn.qkv.weight.data.zero_()
            block.attn.qkv.bias.data.normal_()
    torch.testing.assert_close(evaluate.without_attention(model)(image), model(image), atol=1e-5, rtol=1e-4)


def test_confusion_matrix_has_true_classes_down():
    matrix = evaluate.confusion_matrix(torch.tensor([1, 1, 2]), torch.tensor([0, 1, 2]), classes=3)
    assert matrix.tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_an_interrupted_run_ends_with_the_same_weights(folder, tmp_path, monkeypatch):
    assert fit(SMALL, folder, tmp_path / "whole")

    epoch = train.Training.run_epoch
    with monkeypatch.context() as patch:
        patch.setattr(train.Training, "run_epoch", lambda self: 1 / 0 if self.epoch else epoch(self))
        with pytest.raises(ZeroDivisionError):
            fit(SMALL, folder, tmp_path / "split")
    assert not (tmp_path / "split" / train.WEIGHTS).exists()
    with pytest.raises(FileExistsError, match="resume"):
        fit(SMALL, folder, tmp_path / "split")
    assert fit(SMALL, folder, tmp_path / "split", resume=True)

    files = [tmp_path / run / train.WEIGHTS for run in ("whole", "split")]
    assert files[0].read_bytes() == files[1].read_bytes()
    starts, epochs = card.read_log(tmp_path / "split" / train.LOG)
    assert [start["from_epoch"] for start in starts] == [0, 1]
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    whole = card.read_log(tmp_path / "whole" / train.LOG)[1]
    for key in ("loss", "train_accuracy", "test_accuracy", "test_accuracy_ema", "lr"):
        assert [line[key] for line in epochs] == [line[key] for line in whole]


def test_no_epoch_begins_after_the_time_is_up(folder, tmp_path, capsys):
    assert not fit(SMALL, folder, tmp_path / "run", stop_after=0)
    assert "before epoch 1 of 3" in capsys.readouterr().out
    assert not (tmp_path / "run" / train.WEIGHTS).exists()


def test_another_recipe_is_not_resumed(folder, tmp_path):
    short = Recipe(epochs=1, batch_size=16, warmup=0)
    fit(short, folder, tmp_path / "run")
    with pytest.raises(ValueError, match=r"lr was 0\.002, is 0\.1"):
        fit(Recipe(epochs=1, batch_size=16, warmup=0, lr=0.1), folder, tmp_path / "run", resume=True)


def test_held_out_images_are_not_trained_on(folder):
    kept, held_out = train._splits(Recipe(hold_out=10), folder)
    everything = load_split(folder, train=True)
    both = torch.cat([kept.images, held_out.images]).flatten(1)
    assert len(kept.labels) == 30
    assert torch.equal(both.unique(dim=0), everything.images.flatten(1).unique(dim=0))
    with pytest.raises(ValueError, match="hold_out is 40"):
        train._splits(Recipe(hold_out=40), folder)


@pytest.mark.parametrize("change", [{"epochs": 0}, {"batch_size": 0}, {"warmup": 3}])
def test_impossible_recipes_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Recipe(**{"epochs": 3, "warmup": 0, **change})


def test_only_matrices_decay(folder):
    training = train.Training(SMALL, *train._splits(SMALL, folder))
    muon, adamw = training.optimizers
    assert {group["weight_decay"] for group in adamw.param_groups} == {0}
    decaying = {id(parameter) for group in muon.param_groups for parameter in group["params"]}
    for name, parameter in training.model.named_parameters():
        assert (id(parameter) in decaying) == (parameter.ndim > 1 and not name.endswith("rpb")), name


@pytest.mark.parametrize("shape", [(4, 6, 20), (4, 20, 6), (1, 8, 8)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(6))
    before, after = (torch.linalg.svd(m, full_matrices=False) for m in (matrices, orthogonalize(matrices)))
    assert ((after.S > 0.6) & (after.S < 1.3)).all()
    ideal = before.U @ before.Vh  # the same singular vectors, all singular values 1
    torch.testing.assert_close(orthogonalize(matrices), ideal, atol=0.3, rtol=0)


def test_muon_steps_by_hand():
    parameter = torch.nn.Parameter(torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(7)))
    start, gradient = parameter.detach().clone(), torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(8))
    optimizer = Muon([parameter], lr=0.1, momentum=0.9, weight_decay=0.5)
    parameter.grad = gradient
    optimizer.step()
    direction = orthogonalize(0.1 * gradient.flatten(1)).view(3, 2, 2)
    torch.testing.assert_close(parameter.detach(), 0.95 * start - 0.1 * 0.2 * 2 * direction)


def test_muon_refuses_vectors():
    with pytest.raises(ValueError, match=r"\[3\]"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)


def test_command_line(folder, tmp_path, capsys):
    run = [
        "--data",
        str(folder),
        "--out",
        str(tmp_path / "run"),
        "--epochs",
        "1",
        "--warmup",
        "0",
        "--batch-size",
        "20",
    ]
    assert train.main([*run, "--erase", "0.5", "--seed", "3"]) == 0
    starts, _ = card.read_log(tmp_path / "run" / train.LOG)
    assert starts[0]["recipe"]["augmentation"]["erase"] == 0.5
    assert starts[0]["recipe"]["seed"] == 3
    capsys.readouterr()

    assert train.main(run) == 2
    assert "has a checkpoint already" in capsys.readouterr().err
    assert train.main(["--data", str(tmp_path), "--out", str(tmp_path / "other")]) == 2
    assert "train-images-idx3-ubyte" in capsys.readouterr().err

    weights = str(tmp_path / "run" / train.WEIGHTS)
    assert evaluate.main(["--data", str(folder), "--weights", weights, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 20
    assert sum(map(sum, result["confusion_matrix"])) == 20
    assert evaluate.main(["--data", str(folder), "--weights", weights]) == 0
    assert "| Ankle boot |" in capsys.readouterr().out


def test_card_of_a_finished_run(folder, tmp_path, capsys):
    common = ["--data", str(folder), "--epochs", "2", "--warmup", "1", "--batch-size", "20"]
    assert train.main([*common, "--out", str(tmp_path / "run")]) == 0
    assert train.main([*common, "--out", str(tmp_path / "ablation"), "--without-attention"]) == 0
    capsys.readouterr()
    ends = ["--data", str(folder), "--into", str(tmp_path / "weights")]
    sample = tmp_path / "sample.npz"
    runs = ["--run", str(tmp_path / "run"), "--ablation", str(tmp_path / "ablation")]
    assert card.main([*ends, *runs, "--sample", str(sample)]) == 0
    result = json.loads(capsys.readouterr().out)
    text = (tmp_path / "weights" / "dinat_pico.fashion_mnist.md").read_text()
    assert f"**{result['accuracy']:.2f}% top-1** on the 20 test images" in text
    assert f"by the same recipe | {result['trained_without']:.2f}% |" in text
    assert (tmp_path / "weights" / "dinat_pico.fashion_mnist.safetensors").stat().st_size < 4_000_000
    assert len((tmp_path / "weights" / "dinat_pico.fashion_mnist.jsonl").read_text().splitlines()) == 3
    arrays = np.load(sample)
    assert arrays["index"].tolist() == list(range(20))
    right = (arrays["logits"].argmax(1) == arrays["labels"]).mean()
    assert 100 * right == pytest.approx(result["accuracy"])

    assert card.main([*ends, "--run", str(tmp_path / "ablation")]) == 2
    assert "no finished run" in capsys.readouterr().err
    assert card.main([*ends, "--run", str(tmp_path / "run"), "--ablation", str(tmp_path / "run")]) == 2
    assert "--without-attention" in capsys.readouterr().err
