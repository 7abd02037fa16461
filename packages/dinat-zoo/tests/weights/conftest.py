from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import dinat_zoo


@dataclass
class Server:
    """A host of files on this machine that can fail in the ways that hosts do.

    Attributes:
        files: contents by path.
        ranges: answer requests for a part of a file.
        etags: tell versions of a file apart by their ETag; by nothing at all otherwise.
        cut: how many bytes to send of each of the next answers before the connection drops; None for all.
        statuses: HTTP statuses of the next answers, before anything works.
        requests: method, path and Range of everything asked for.
        gate: answers wait until it is set.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etags: bool = True
    cut: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler, body: bool) -> None:
        asked = handler.headers.get("Range")
        self.requests.append((handler.command, handler.path, asked))
        self.gate.wait()
        if self.statuses:
            handler.send_error(self.statuses.pop(0))
            return
        path = handler.path.partition("?")[0]
        if path not in self.files:
            handler.send_response(404)
            handler.send_header("X-Error-Code", "EntryNotFound")  # as the Hugging Face hub does
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        content, start = self.files[path], 0
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        current = handler.headers.get("If-Range") in (None, etag)
        if asked and self.ranges and current:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            if start >= len(content):
                handler.send_error(416)
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            handler.send_response(200)
        if self.etags:
            handler.send_header("ETag", etag)
        handler.send_header("X-Repo-Commit", "0" * 40)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        if body:
            sent = content[start:]
            if self.cut:
                sent = sent[: self.cut.pop(0)]
                handler.close_connection = True
            handler.wfile.write(sent)

    def gets(self) -> list[str | None]:
        """The Range of each GET."""
        return [asked for method, _, asked in self.requests if method == "GET"]


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()
    state.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self, body=True)

        def do_HEAD(self) -> None:
            state.answer(self, body=False)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_port}"
        yield state
        state.gate.set()
        http.shutdown()
        thread.join()


@pytest.fixture
def hub(server: Server, isolated: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server in the place of the Hugging Face hub."""
    place_hub(monkeypatch, server.url)
    return server


def place_hub(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    for module in ("constants", "file_download"):  # the latter has a copy before version 1
        monkeypatch.setattr(f"huggingface_hub.{module}.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches of its own for every test, no waiting, and no way to a network; returns our cache."""
    for name in ("DINAT_ZOO_MIRROR", "DINAT_ZOO_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DINAT_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("dinat_zoo._download.BACKOFF", 0.0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    place_hub(monkeypatch, "http://127.0.0.1:9")
    return tmp_path / "cache"


SMALL: dict[str, Any] = {
    "embed_dim": 32,
    "depths": (1, 2, 1, 1),
    "num_heads": (1, 2, 4, 8),
    "kernel_size": 3,
    "dilations": ((2,), (1, 2), (1,), (1,)),
    "mlp_ratio": 2,
}


@pytest.fixture
def small() -> Callable[..., Any]:
    """Makes a model with the structure of a published one, but small; no two parameters of it are alike."""

    def make(name: str = "dinat_mini", **arguments: Any) -> Any:
        model = timm.create_model(name, **{**SMALL, **arguments}).eval()
        if not arguments.get("pretrained"):
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter)
        return model

    return make


@pytest.fixture
def saved() -> Callable[[Any], bytes]:
    """What torch.save would put into a file."""

    def content(value: Any) -> bytes:
        buffer = BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()

    return content


@pytest.fixture
def original() -> Callable[[torch.nn.Module], dict[str, Tensor]]:
    """A model's weights in the authors' format, by a second implementation of the renaming."""

    def rename(model: torch.nn.Module) -> dict[str, Tensor]:
        weights = {}
        for key, value in model.state_dict().items():
            parts = key.replace("head.fc.", "head.").split(".")
            if parts[0] == "levels" and parts[2] == "downsample":
                parts[1] = str(int(parts[1]) - 1)
            weights[".".join(parts)] = value.clone()
        return weights

    return rename


@pytest.fixture
def same() -> Callable[..., None]:
    """Asserts that two sets of weights, or the weights of models, are equal to the last bit."""

    def check(actual: Any, expected: Any) -> None:
        actual, expected = (x.state_dict() if isinstance(x, torch.nn.Module) else x for x in (actual, expected))
        assert actual.keys() == expected.keys()
        for key, value in expected.items():
            assert actual[key].dtype == value.dtype, key
            torch.testing.assert_close(actual[key], value, rtol=0, atol=0, msg=key)

    return check


assert dinat_zoo.list_models()  # timm knows the models once the package is imported
