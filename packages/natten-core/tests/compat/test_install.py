"""Installing and taking back, and what Python's own means then say of natten."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

import natten_core.compat
from natten_core.compat import __main__

RELEASES = {"0.14": "0.14.6", "0.15": "0.15.1", "0.17": "0.17.5", "0.21": "0.21.0"}


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("natten", "release"), RELEASES.items(), indirect=["natten"])
def test_python_finds_it(natten: ModuleType, release: str) -> None:
    assert natten.__version__ == release == metadata.version("natten") == natten_core.compat.installed()
    assert metadata.version("NATTEN") == release
    assert metadata.distribution("natten").metadata["Name"] == "natten"
    assert "natten" in {distribution.metadata["Name"] for distribution in metadata.distributions()}
    assert metadata.files("natten") is None
    for name in ("natten", "natten.functional"):
        spec = importlib.util.find_spec(name)
        assert spec
        assert spec.origin == "natten_core.compat"
    assert natten.functional is importlib.import_module("natten.functional")
    assert importlib.util.find_spec("natten.nothing") is None


def test_metadata_of_others_is_as_it_was() -> None:
    before = metadata.version("torch")
    natten_core.compat.install("0.17")
    try:
        assert metadata.version("torch") == before
        with pytest.raises(metadata.PackageNotFoundError):
            metadata.version("natten-of-old")
    finally:
        natten_core.compat.uninstall()


def test_taken_back() -> None:
    natten_core.compat.install("0.17")
    from natten.functional import na2d_qk

    natten_core.compat.uninstall()
    natten_core.compat.uninstall()
    assert natten_core.compat.installed() is None
    assert importlib.util.find_spec("natten") is None
    assert not [name for name in sys.modules if name.split(".")[0] == "natten"]
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("natten")
    assert na2d_qk.__name__ == "na2d_qk"


def test_a_release_is_reported_as_given() -> None:
    natten_core.compat.install("0.17.3")
    try:
        natten_core.compat.install("0.17.3")  # again, nothing changes
        assert metadata.version("natten") == "0.17.3"
        with pytest.raises(RuntimeError, match=r"answers as natten 0\.17\.3 already: call uninstall"):
            natten_core.compat.install("0.17")
    finally:
        natten_core.compat.uninstall()


@pytest.mark.parametrize("version", ["0.16", "1.0", "", "0.14.x", "0.14.", "newest"])
def test_unknown_versions(version: str) -> None:
    with pytest.raises(ValueError, match=r"version must be 0\.14, 0\.15, 0\.17, 0\.21, or a release of one of these"):
        natten_core.compat.install(version)


def test_a_natten_that_is_imported_already(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = ModuleType("natten")
    theirs.__file__ = "site-packages/natten/__init__.py"
    monkeypatch.setitem(sys.modules, "natten", theirs)
    with pytest.raises(RuntimeError, match="natten is imported already, from site-packages"):
        natten_core.compat.install("0.17")
    natten_core.compat.uninstall()
    assert sys.modules["natten"] is theirs


def test_an_installed_natten_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "natten").mkdir()
    (tmp_path / "natten" / "__init__.py").write_text("__version__ = 'theirs'\n")
    monkeypatch.syspath_prepend(tmp_path)
    natten_core.compat.install("0.21")
    try:
        assert importlib.import_module("natten").__version__ == "0.21.0"
    finally:
        natten_core.compat.uninstall()
    assert importlib.import_module("natten").__version__ == "theirs"
    sys.modules.pop("natten")


@pytest.mark.parametrize("natten", ["0.14", "0.17"], indirect=True)
def test_modules_are_pickled(natten: ModuleType) -> None:
    module = natten.NeighborhoodAttention2D(8, 2, 3)
    copy = pickle.loads(pickle.dumps(module))
    assert type(copy) is natten.NeighborhoodAttention2D
    assert str(copy) == str(module)


def test_natten_core_does_not_import_it() -> None:
    code = "import natten_core, sys; print([name for name in sys.modules if name.startswith('natten_core.compat')])"
    assert run("-c", code) == "[]"


def test_command_line(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("WHERE = 'beside the script'\n")
    script = tmp_path / "script.py"
    script.write_text("import sys, natten, neighbour\nprint(natten.__version__, __name__, sys.argv, neighbour.WHERE)\n")
    found = run("-m", "natten_core.compat", "0.14", str(script), "--epochs", "3")
    assert found == f"0.14.6 __main__ {[str(script), '--epochs', '3']} beside the script"


def test_command_line_with_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a_client.py").write_text("import sys, natten\nprint(natten.__version__, __name__, sys.argv[1:])\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["python -m natten_core.compat", "0.17.2", "-m", "a_client", "-x"])
    try:
        __main__.main()
    finally:
        natten_core.compat.uninstall()
    assert capsys.readouterr().out == "0.17.2 __main__ ['-x']\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: python -m natten_core.compat VERSION SCRIPT.py"),
        (["0.14"], "usage: "),
        (["0.14", "-m"], "usage: "),
        (["0.13", "script.py"], "python -m natten_core.compat: version must be 0.14, 0.15, 0.17, 0.21, or a release"),
    ],
)
def test_command_line_errors(monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.setattr(sys, "argv", ["python -m natten_core.compat", *arguments])
    with pytest.raises(SystemExit) as caught:
        __main__.main()
    assert str(caught.value).startswith(message)
    assert natten_core.compat.installed() is None


def test_command_line_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["python -m natten_core.compat", "--help"])
    __main__.main()
    assert capsys.readouterr().out.startswith("usage: ")
