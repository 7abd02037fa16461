from __future__ import annotations

import json
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import bench_na
import bench_overhead
import bench_plot
import peers
import pytest
import torch
from harness import check, report, run, timing
from harness.contenders import Contender, Workbench
from harness.machine import Floors
from harness.problems import PROBLEMS, TINY, Problem
from harness.timing import interleave, ratio

import natten_core

OURS = {"natten-core", "natten-core packed", "natten-core two-stage"}
CONTENDERS = {"reference", "unfold", "dense-sdpa", "tiled-sdpa", "tiled-bmm", "tiled-recompute"}


def test_short_run_records_times_checks_and_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, threads = tmp_path / "results" / "tiny.json", torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert bench_na.main(["--short", "--tiny", "--threads", "1", "--out", str(out), "--note", "a test"]) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)

    record = json.loads(out.read_text())
    assert record["note"] == "a test"
    assert record["arguments"] == ["--short", "--tiny", "--threads", "1", "--out", "tiny.json", "--note", "a test"]
    assert record["machine"]["torch"] == torch.__version__
    assert [(f["dtype"], f["threads"]) for f in record["floors"]] == [("float32", 1), ("float64", 1)]
    seen = [(m["problem"], m["mode"], m["threads"]) for m in record["measurements"]]
    assert seen == [(name, mode, 1) for name in TINY for mode in ("forward", "forward+backward")]
    compiled = natten_core.build_info()["missing"] is None
    expected = CONTENDERS | (OURS if compiled else set())
    for entry in record["measurements"]:
        assert {row["name"] for row in entry["contenders"]} == expected
        assert all(row["ms"]["min"] > 0 and row["ms"]["q1"] <= row["ms"]["q3"] for row in entry["contenders"])
        assert (entry["ours_over_best_peer"] is not None) == compiled
    assert {c["contender"] for c in record["checks"]} == expected - CONTENDERS | {"reference"}
    printed = capsys.readouterr().out
    assert "numerically right" in printed
    assert ("ours / best peer" in printed) == compiled


@pytest.mark.skipif(natten_core.build_info()["missing"] is not None, reason="no compiled kernels")
def test_overhead_of_every_kind_of_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "overhead.json"
    assert bench_overhead.main(["--seconds", "0", "--out", str(out)]) == 0
    times = json.loads(out.read_text())["ms"]
    assert times.keys() == bench_overhead.calls().keys()
    assert all(time["min"] > 0 for time in times.values())
    assert "na2d, recording" in capsys.readouterr().out


def test_an_unknown_problem_is_refused() -> None:
    with pytest.raises(SystemExit, match="no problem p1; there are p0-d1, p0-d8"):
        bench_na.main(["--problems", "p1"])


def test_wrong_results_are_found_and_fail_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Workbench.of(TINY["tiny-d1"])
    (right,) = bench.reference()

    def attend(*inputs: torch.Tensor) -> torch.Tensor:
        return right.attend(*inputs[:3], inputs[3] * 1.001)

    wrong = Contender("wrong", "ours", "", attend, right.inputs, right.grad)
    outcomes = check.check(bench, [right, wrong])
    assert {c.contender for c in outcomes if not c.passed} == {"wrong"}
    assert "WRONG: tiny-d1 wrong output: error" in report.checks([c.as_dict() for c in outcomes])

    monkeypatch.setattr(Workbench, "reference", lambda self: [wrong] if self.problem is bench.problem else [])
    assert bench_na.main(["--tiny", "--problems", "tiny-d1"]) == 1


def test_peers_that_are_missing_are_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def flex(problem: Problem) -> peers.Peer:
        return peers.Flex(problem, compiler=lambda function, **_: function)

    monkeypatch.setitem(sys.modules, "natten", None)  # as if it were not installed
    monkeypatch.setitem(peers.FORWARD_ONLY, "flex", flex)
    effort = replace(run.TINY, plain_peers=False, forward_only_on=["tiny-d2"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile", UserWarning)
        result = run.run([TINY["tiny-d2"]], [1], effort)
    timed = [{row["name"] for row in entry["contenders"]} for entry in result["measurements"]]
    assert ["flex" in names for names in timed] == [True, False]
    assert not any("natten" in names for names in timed)
    (skipped,) = [skip for skip in result["skipped"] if skip["contender"] == "natten"]
    assert skipped["problem"] == "tiny-d2"
    assert "natten" in skipped["reason"]


def test_a_slow_call_sits_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SLOW_SECONDS", 1e-3)
    samples = interleave({"slow": lambda: time.sleep(2e-3), "quick": lambda: None}, 0, 5, sample_seconds=0)
    assert len(samples["slow"].wall) == timing.SLOW_ROUNDS
    assert len(samples["quick"].wall) == 5
    assert ratio(samples["slow"], samples["quick"])["median"] > 1


def test_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results, picture = tmp_path / "tiny.json", tmp_path / "tiny.svg"
    bench_na.main(["--tiny", "--problems", "tiny-d1", "--threads", "1", "--out", str(results)])
    assert bench_plot.main([str(results), str(picture)]) == 0
    drawn = picture.read_text()
    assert drawn.startswith("<?xml")
    assert len(drawn) > 10_000


def test_not_a_number_is_wrong() -> None:
    assert not check.Check("", "", "", float("nan"), 1.0).passed


def test_every_call_is_timed_in_every_round() -> None:
    counts = {"a": 0, "b": 0}

    def count(name: str) -> None:
        counts[name] += 1

    samples = interleave({"a": lambda: count("a"), "b": lambda: count("b")}, seconds=0, min_rounds=3)
    assert all(len(s.wall) == len(s.cpu) == 3 for s in samples.values())
    assert all(counts.values())
    assert ratio(samples["a"], samples["a"]) == {"median": 1.0, "q1": 1.0, "q3": 1.0}


def test_work_of_p0() -> None:
    problem = PROBLEMS["p0-d8"]
    assert problem.flops("forward") == 8 * 56 * 56 * 2 * 6272
    assert problem.flops("forward+backward") == 3 * problem.flops("forward")
    assert problem.bytes("forward") == 4 * 6_422_528
    assert Floors("float32", 1, 100.0, 1.0).milliseconds(problem, "forward") == pytest.approx(25.690112)
