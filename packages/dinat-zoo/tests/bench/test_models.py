from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from dinat_zoo.bench import Row, Setting, bench_models, interleave, peak_memory, profile_model, write
from dinat_zoo.bench.jobs import ModelJob
from dinat_zoo.bench.memory import growth
from dinat_zoo.cli import main

SMALL = Setting(batch=1, image_size=28, threads=1)


def test_rows_have_speed_spread_ratio_and_the_models_order() -> None:
    threads = torch.get_num_threads()
    settings = [SMALL, Setting(1, 28, "train", "bf16", threads=1)]
    models = ["dinat_pico", "nat_mini"]
    rows = list(bench_models(models, settings, seconds=0, rounds=3, memory=False, channels_last=["nat_mini"]))
    assert torch.get_num_threads() == threads
    assert [(row.model, row.mode, row.dtype) for row in rows] == [
        (name, s.mode, s.dtype) for s in settings for name in models
    ]
    for row in rows:
        assert row.error == ""
        assert row.ms_q1 <= row.ms <= row.ms_q3  # type: ignore[operator]
        assert row.images_per_second == pytest.approx(1e3 * row.batch / row.ms)  # type: ignore[operator]
        assert row.threads == 1
        assert row.channels_last == (row.model == "nat_mini")
    assert [row.ratio for row in rows[::2]] == [1.0, 1.0]
    assert all(row.ratio < 1 for row in rows[1::2])  # type: ignore[operator]  # nat_mini has 100 times the work


def test_calls_take_turns_and_run_as_often_as_rounds_ask() -> None:
    seen: list[str] = []
    samples = interleave({name: lambda name=name: seen.append(name) for name in "abc"}, seconds=0, rounds=4)  # type: ignore[misc]
    assert {name: len(times) for name, times in samples.items()} == {"a": 4, "b": 4, "c": 4}
    rounds = [seen[i : i + 3] for i in range(0, len(seen), 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)


@pytest.mark.parametrize("mib", [64, 200])
def test_growth_is_what_was_allocated(mib: int) -> None:
    assert growth(lambda: torch.ones(mib << 18)) == pytest.approx(mib, abs=4)
    assert growth(lambda: None) < 4  # it was freed, and the mark fell


def test_peak_memory_has_the_weights_and_grows_with_the_batch() -> None:
    one, eight = (peak_memory(ModelJob("nat_mini", Setting(batch, 64, threads=1))) for batch in (1, 16))
    weights = 20.0e6 * 4 / 2**20
    assert weights < one < 2 * weights + 60
    assert eight > one + 15 * 64 * 16 * 16 * 3 * 4 / 2**20  # at least the widest map of the first level


def test_a_model_that_fails_is_a_row_with_an_error_and_others_are_measured() -> None:
    setting = Setting(batch=1 << 24, image_size=224, threads=1)  # no machine has the memory for 8 TiB of images
    (row,) = bench_models(["dinat_mini"], [setting], memory=False)
    assert row.ms is None
    assert "memory" in row.error
    assert "failed" in write([row])
    assert row.error in write([row])


def test_a_failure_in_the_measuring_process_is_an_error_row() -> None:
    (row,) = bench_models(["dinat_mini"], [Setting(batch=1 << 24, threads=1)])
    assert row.error.startswith("RuntimeError")
    assert "memory" in row.error


def test_formats() -> None:
    row = Row("m", 2, 28, "eval", "fp32", "cpu", 1, False, False, 10.0, 200.0, 190.0, 210.0, 1.0, 0.9, 1.1, 12.0)
    assert json.loads(write([row], "json"))["rows"][0]["images_per_second"] == 10.0
    assert next(csv.DictReader(write([row], "csv").splitlines()))["memory_mib"] == "12.0"
    assert write([row], "markdown").splitlines()[1].startswith("| -")
    with pytest.raises(ValueError, match="form is 'xml'; it must be one of 'table'"):
        write([row], "xml")


def test_profile_names_what_the_model_does() -> None:
    shares = {share.kind: share for share in profile_model("nat_mini", SMALL, steps=1)}
    assert sum(share.share for share in shares.values()) == pytest.approx(1)
    assert shares["neighborhood attention"].calls >= 18
    assert shares["GELU"].calls == 18
    assert shares["layer norm"].calls % (18 * 2 + 5) == 0
    assert shares["linear"].ms > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Setting(mode="test"), "mode is 'test'"),
        (lambda: Setting(batch=0), "batch is 0; it must be at least 1"),
        (lambda: list(bench_models(["no_model"], [SMALL])), "models has 'no_model', which timm does not know"),
        (lambda: list(bench_models([], [SMALL])), "models is \\[\\]"),
        (lambda: profile_model("nat_mini", Setting(compiled=True)), "eager mode"),
    ],
)
def test_bad_arguments(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--image-size", "28", "--batch", "1", "--seconds", "0", "--rounds", "2", "--device", "cpu"]
    assert main(["bench", "dinat_pico", *arguments, "--no-memory", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["model"] == "dinat_pico"
    assert main(["bench", "dinat_pico", *arguments, "--profile"]) == 0
    assert "neighborhood attention" in capsys.readouterr().out
    assert main(["bench", "no_model", *arguments]) == 2
    assert "timm does not know" in capsys.readouterr().err


def test_benchmark_script(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "bench_models.py"
    if not path.is_file():
        pytest.skip("an sdist has no benchmarks")
    spec = importlib.util.spec_from_file_location("bench_models", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    out = tmp_path / "results" / "tiny.json"
    assert script.main(["--tiny", "--seconds", "0", "--rounds", "2", "--threads", "1", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert len(record["rows"]) == 2 * 2 * len(script.TINY)
    assert record["machine"]["versions"]["torch"] == torch.__version__
    assert record["command"][1] == "--tiny"
