from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dinat_zoo import WeightsError
from dinat_zoo._weights_file import check, read, write


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.float16)}


def legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def plain_pickle(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_round_trip(suffix: str, tmp_path: Path, same: Callable[..., None]) -> None:
    path = tmp_path / f"weights{suffix}"
    base = torch.randn(4, 6)
    weights = {**WEIGHTS, "slice": base[:2], "transposed": base.T, "index": torch.arange(3)}
    write(weights, path)
    same(read(path), weights)
    assert path.stat().st_size < 4096
    assert list(tmp_path.iterdir()) == [path]


def test_formats_are_told_by_content(tmp_path: Path, same: Callable[..., None]) -> None:
    path = tmp_path / "weights"
    save_file(WEIGHTS, path)
    assert check(path) == "safetensors"
    same(read(path), WEIGHTS)
    for save in (torch.save, legacy):
        save({"model": WEIGHTS, "args": argparse.Namespace(epochs=3)}, path)
        assert check(path) == "torch"
        same(read(path)["model"], WEIGHTS)


@pytest.mark.parametrize("convert", [lambda t: t.numpy(), lambda t: t, torch.nn.Parameter])
@pytest.mark.parametrize("protocol", [2, 4])
def test_detectron2_pickles(
    convert: Callable[..., Any], protocol: int, tmp_path: Path, same: Callable[..., None]
) -> None:
    content = {"model": {key: convert(value) for key, value in WEIGHTS.items()}, "matching_heuristics": True}
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    assert check(path) == "detectron2"
    loaded = read(path)
    assert loaded["matching_heuristics"] is True
    same(loaded["model"], WEIGHTS)


@pytest.mark.parametrize("save", [torch.save, legacy, plain_pickle])
def test_a_file_that_needs_more_than_weights_is_refused(save: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    save({"model": WEIGHTS, "hook": Malicious(tmp_path / "made")}, path)
    with pytest.raises(WeightsError, match=r"refused checkpoint '.*weights\.pth': reading it would run posix\.mkdir"):
        read(path)
    assert not (tmp_path / "made").exists()


def test_a_storage_inside_a_pickle_is_not_trusted_either(tmp_path: Path) -> None:
    """torch pickles a tensor's storage as bytes, which its own loader unpickles without looking."""

    class Storage:
        def __reduce__(self) -> Any:
            return torch.storage._load_from_bytes, (pickle.dumps(Malicious(tmp_path / "made"), protocol=2),)

    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"model": Storage()}))
    with pytest.raises(WeightsError):
        read(path)
    assert not (tmp_path / "made").exists()


def test_objects_in_arrays_are_not_trusted_either(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"model": np.array([Malicious(tmp_path / "made")], dtype=object)}))
    with pytest.raises(WeightsError, match=r"posix\.mkdir"):
        read(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("save", "keep"), [(torch.save, 0.9), (legacy, 0.5), (plain_pickle, 0.5), (save_file, 0.9), (torch.save, 0.0)]
)
def test_truncated_files(save: Callable[..., None], keep: float, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(WeightsError, match="cannot read checkpoint"):
        read(path)


def test_what_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is not a file"):
        read(tmp_path)
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(WeightsError, match="holds a list"):
        read(tmp_path / "list.pkl")
    with pytest.raises(WeightsError, match=r"'.*weights\.onnx' names no format; known are \.safetensors, "):
        write(WEIGHTS, tmp_path / "weights.onnx")
    with pytest.raises(WeightsError, match="cannot write"):
        write(WEIGHTS, tmp_path / "nowhere" / "weights.pth")
