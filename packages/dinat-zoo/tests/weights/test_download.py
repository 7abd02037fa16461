from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from dinat_zoo import WeightsError
from dinat_zoo._download import cache_path, cached

PATH = "/projects/dinat/checkpoints/x.pth"


@pytest.fixture
def content(saved: Callable[[Any], bytes]) -> bytes:
    return saved({"a": torch.arange(60_000.0)})


def test_the_copy_and_its_digest_lie_under_host_and_path(server: Any, content: bytes, isolated: Path) -> None:
    server.files[PATH] = content
    url = server.url + PATH
    copy = cached(url)
    assert copy == cache_path(url) == isolated / server.url.removeprefix("http://") / PATH[1:]
    assert copy.read_bytes() == content
    record = copy.with_name("x.pth.sha256")
    assert record.read_text() == f"{hashlib.sha256(content).hexdigest()}  x.pth\n"
    assert {path.name for path in copy.parent.iterdir()} - {"x.pth.lock"} == {"x.pth", "x.pth.sha256"}
    assert cached(url) == copy
    assert server.gets() == [None]


def test_the_default_cache_is_torch_hubs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DINAT_ZOO_CACHE")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = cache_path("https://example.org/a/b.pth?token=1")
    assert path.parent == tmp_path / "hub/checkpoints/dinat_zoo/example.org/a"
    assert path.name.startswith("b.pth-")
    assert path != cache_path("https://example.org/a/b.pth?token=2")


@pytest.mark.parametrize("url", ["https://example.org", "https://example.org/", "https://example.org/a/../../b.pth"])
def test_urls_without_a_file_name(url: str) -> None:
    with pytest.raises(WeightsError, match="names no file"):
        cached(url)


def test_a_dropped_connection_is_resumed(server: Any, content: bytes) -> None:
    server.files[PATH] = content
    server.cut = [1000, 50_000, 0]
    assert cached(server.url + PATH).read_bytes() == content
    assert server.gets() == [None, "bytes=1000-", "bytes=51000-", "bytes=51000-"]


def test_a_later_process_resumes(server: Any, content: bytes) -> None:
    server.files[PATH] = content
    server.cut = [1000] + [0] * 4
    with pytest.raises(WeightsError, match=f"the connection ended after 1000 of {len(content)} bytes"):
        cached(server.url + PATH)
    server.requests.clear()
    assert cached(server.url + PATH).read_bytes() == content
    assert server.gets() == ["bytes=1000-"]


def test_what_has_changed_meanwhile_is_not_mixed(server: Any, content: bytes, saved: Callable[[Any], bytes]) -> None:
    server.files[PATH] = content
    server.cut = [1000] + [0] * 4
    with pytest.raises(WeightsError):
        cached(server.url + PATH)
    server.files[PATH] = other = saved({"b": torch.ones(70_000)})
    assert cached(server.url + PATH).read_bytes() == other


@pytest.mark.parametrize(("ranges", "etags"), [(False, True), (True, False)])
def test_a_server_that_cannot_resume_starts_over(server: Any, content: bytes, ranges: bool, etags: bool) -> None:
    server.files[PATH] = content
    server.ranges, server.etags, server.cut = ranges, etags, [1000]
    assert cached(server.url + PATH).read_bytes() == content
    assert len(server.gets()) == 2


def test_a_part_that_is_too_long_is_dropped(server: Any, content: bytes) -> None:
    server.files[PATH] = content
    part = cache_path(server.url + PATH).with_name("x.pth.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(content + b"more")
    part.with_name("x.pth.part.validator").write_text(f'"{hashlib.sha256(content).hexdigest()}"')
    assert cached(server.url + PATH).read_bytes() == content
    assert server.gets() == [f"bytes={len(content) + 4}-", None]


def test_passing_failures_are_retried(server: Any, content: bytes) -> None:
    server.files[PATH] = content
    server.statuses = [503, 429, 500]
    assert cached(server.url + PATH).read_bytes() == content


def test_lasting_failures_are_not(server: Any) -> None:
    server.statuses = [503] * 9
    with pytest.raises(WeightsError, match=r"HTTP Error 503.* \(4 attempts\)"):
        cached(server.url + PATH)
    assert len(server.gets()) == 4
    server.statuses.clear()
    server.requests.clear()
    with pytest.raises(WeightsError, match="HTTP Error 404"):
        cached(server.url + PATH)
    assert len(server.gets()) == 1


def test_a_dead_host() -> None:
    with pytest.raises(WeightsError, match=r"cannot download http://127\.0\.0\.1:9/x\.pth: .*refused"):
        cached("http://127.0.0.1:9/x.pth")


def test_a_host_that_does_not_answer(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dinat_zoo._download.TIMEOUT", 0.05)
    server.gate.clear()
    with pytest.raises(WeightsError, match="timed out"):
        cached(server.url + PATH)


def test_a_malicious_file_is_refused_and_not_kept(server: Any, saved: Callable[[Any], bytes]) -> None:
    server.files[PATH] = saved({"weight": torch.ones(2), "hook": os.getcwd})
    with pytest.raises(WeightsError, match=r"reading it would run posix\.getcwd"):
        cached(server.url + PATH)
    assert not cache_path(server.url + PATH).exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE html><title>Moved</title>", "is a web page"),
        (b"", "is empty"),
        (b"PK\x03\x04 and then no more of the file", "is cut off"),
        (b"\x40\0\0\0\0\0\0\0{ of safetensors", "is cut off"),
        (b"#!/bin/sh", "is no file of weights"),
    ],
)
def test_what_is_no_checkpoint_is_not_kept(server: Any, content: bytes, reason: str) -> None:
    server.files[PATH] = content
    with pytest.raises(WeightsError, match=reason):
        cached(server.url + PATH)
    assert {path.name for path in cache_path(server.url + PATH).parent.iterdir()} <= {
        "x.pth.lock",
        "x.pth.part.validator",
    }


def test_a_copy_that_changed_is_refused(server: Any, content: bytes) -> None:
    server.files[PATH] = content
    copy = cached(server.url + PATH)
    damaged = bytearray(content)
    damaged[len(damaged) // 2] ^= 1
    copy.write_bytes(damaged)
    with pytest.raises(WeightsError, match="recorded at its first use: it is damaged or was replaced"):
        cached(server.url + PATH)


def test_another_file_under_the_same_url_is_refused(server: Any, content: bytes, saved: Callable[[Any], bytes]) -> None:
    """Also once the copy is gone: the record outlives it, and its removal accepts the new file."""
    server.files[PATH] = content
    copy = cached(server.url + PATH)
    copy.unlink()
    server.files[PATH] = other = saved({"a": torch.zeros(5)})
    with pytest.raises(WeightsError, match="gave something else than expected") as error:
        cached(server.url + PATH)
    record = copy.with_name("x.pth.sha256")
    assert str(record) in str(error.value)
    assert not copy.exists()
    record.unlink()
    assert cached(server.url + PATH).read_bytes() == other


def test_a_file_put_there_by_hand_is_recorded(server: Any, content: bytes) -> None:
    copy = cache_path(server.url + PATH)
    copy.parent.mkdir(parents=True)
    copy.write_bytes(content)
    assert cached(server.url + PATH) == copy
    assert server.requests == []
    copy.write_bytes(content + b" ")
    with pytest.raises(WeightsError, match="recorded"):
        cached(server.url + PATH)


@pytest.mark.parametrize("by", ["own variable", "hub's setting"])
def test_offline(server: Any, content: bytes, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    server.files[PATH] = server.files["/y.pth"] = content
    copy = cached(server.url + PATH)
    if by == "own variable":
        monkeypatch.setenv("DINAT_ZOO_OFFLINE", "1")
    else:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert cached(server.url + PATH) == copy
    with pytest.raises(WeightsError, match=r"offline; its place there is '.*y\.pth'"):
        cached(server.url + "/y.pth")
    assert len(server.requests) == 1


def test_mirrors(server: Any, content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.files["/copy" + PATH] = content
    monkeypatch.setenv("DINAT_ZOO_MIRROR", f"{server.url}/copy/")
    url = "https://no.such.host.invalid" + PATH
    copy = cached(url)
    assert copy == cache_path(url)
    assert copy.read_bytes() == content

    copy.unlink()
    (tmp_path / "disk" / PATH[1:]).parent.mkdir(parents=True)
    (tmp_path / "disk" / PATH[1:]).write_bytes(content)
    monkeypatch.setenv("DINAT_ZOO_MIRROR", str(tmp_path / "disk"))
    monkeypatch.setenv("DINAT_ZOO_OFFLINE", "1")  # a directory is no network
    assert cached(url).read_bytes() == content
    with pytest.raises(WeightsError, match="cannot download file:"):
        cached("https://no.such.host.invalid/z.pth")


def test_an_unwritable_cache(server: Any, content: bytes, isolated: Path) -> None:
    server.files[PATH] = content
    isolated.write_text("a file where the directory should be")
    with pytest.raises(WeightsError, match="cannot keep"):
        cached(server.url + PATH)


def test_two_processes_download_once(server: Any, content: bytes) -> None:
    """The other process is in the middle of its download when this one asks."""
    server.files[PATH] = content
    server.gate.clear()
    code = "import sys; from dinat_zoo._download import cached; print(cached(sys.argv[1]))"
    environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    with (
        subprocess.Popen(
            [sys.executable, "-c", code, server.url + PATH], stdout=subprocess.PIPE, text=True, env=environment
        ) as other,
        ThreadPoolExecutor() as pool,
    ):
        while not server.requests:
            assert other.poll() is None
            time.sleep(0.05)
        here = pool.submit(cached, server.url + PATH)
        time.sleep(0.3)
        assert not here.done()
        server.gate.set()
        assert here.result(timeout=60).read_bytes() == content
        assert other.communicate(timeout=60)[0].strip() == str(here.result())
    assert server.gets() == [None]


def test_progress_is_shown(server: Any, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    server.files[PATH] = content
    cached(server.url + PATH)
    assert "x.pth" in capsys.readouterr().err
