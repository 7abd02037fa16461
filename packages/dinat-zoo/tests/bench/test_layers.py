from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dinat_zoo.bench import LAYERS, Setting, bench_layers, peak_memory, plot_layers
from dinat_zoo.bench.jobs import LayerJob, _SwinAttention
from dinat_zoo.cli import main


def test_every_pair_at_every_size() -> None:
    rows = list(bench_layers(Setting(1, mode="train", threads=1), (7, 14), seconds=0, rounds=2, memory=False))
    assert [(row.image_size, row.model) for row in rows] == [(size, name) for size in (7, 14) for name in LAYERS]
    assert all(row.error == "" and row.ms is not None and row.ms > 0 for row in rows)
    assert [row.ratio for row in rows[::3]] == [1.0, 1.0]


def test_layers_have_the_dilation_and_the_shift_of_their_map() -> None:
    setting = Setting(1, 28)
    job = LayerJob(("na", "dina"), setting, 32, 1, 7)
    assert [job._layer(kind).dilation for kind in job.kinds] == [(1, 1), (4, 4)]
    swin = LayerJob(("wsa", "swsa"), setting, 32, 1, 7)
    assert [swin._layer(kind).block.shift_size for kind in swin.kinds] == [(0, 0), (3, 3)]


def test_without_a_shift_a_window_sees_nothing_else() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 14, 14, 32)
    changed = x.clone()
    changed[:, :7, :7] += 1
    for shifted in (False, True):
        layer = _SwinAttention(32, 1, 14, 7, shifted).eval()
        difference = (layer(x) - layer(changed)).abs().amax(-1)[0] > 1e-6
        assert difference[7:].any() == shifted


def test_command_draws_the_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "layers.svg"
    arguments = ["--sizes", "7", "14", "--batch", "1", "--seconds", "0", "--rounds", "2", "--device", "cpu"]
    assert main(["bench-layers", *arguments, "--threads", "1", "--no-memory", "--plot", str(plot)]) == 0
    assert "NA + DiNA" in capsys.readouterr().out
    assert plot.read_text().count("<svg") == 1


def test_plot_draws_relative_memory(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = bench_layers(Setting(1, threads=1), (7,), seconds=0, rounds=1, memory=False)
    plot_layers([replace(row, memory_mib=8.0) for row in rows], tmp_path / "layers.png")
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")


def test_memory_of_a_pair() -> None:
    memory = peak_memory(LayerJob(("na", "dina"), Setting(4, 56, threads=1), 64, 2, 7))
    assert memory > 4 * 56 * 56 * 64 * 5 * 4 / 2**20  # the maps, queries, keys, values and an output


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"sizes is \(6,\); give sides of at least the window, 7"):
        list(bench_layers(Setting(1), (6,)))
    with pytest.raises(ValueError, match="heads is 3; it must divide dim, 64"):
        list(bench_layers(Setting(1), (7,), heads=3))
