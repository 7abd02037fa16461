"""Every command with inputs that cannot be right: one line that says why, no traceback, the documented exit code."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

from dinat_zoo import cli
from dinat_zoo.cli import main
from dinat_zoo.cli._arguments import one_of

Run = Callable[..., tuple[int, str]]
TRAIN = ("train", "folder", "--output", "run", "--workers", "0", "--batch-size", "2", "--global-batch-size", "2")
BENCH = ("--no-memory", "--seconds", "0", "--rounds", "1", "--batch", "1")
# Commands that lack a name, at their end or where they have braces.
WITH_MODEL: dict[str, tuple[str, ...]] = {
    "classify": ("classify", "ok.png", "--model"),
    "features": ("features", "ok.png", "--output", "f.npz", "--model"),
    "detect": ("detect", "ok.png", "--model"),
    "segment": ("segment", "ok.png", "--model"),
    "info": ("info",),
    "train": (*TRAIN, "--model"),
    "validate": ("validate", "folder", "--model"),
    "convert": ("convert", "wrong.pth", "out.pth", "--model"),
    "convert to a folder": ("convert", "wrong.pth", "out", "--to", "hf", "--model"),
    "bench": ("bench", *BENCH),
    "receptive-field": ("analyse", "receptive-field"),
    "cost": ("analyse", "cost"),
    "attention": ("analyse", "attention", "ok.png", "--model"),
    "rollout": ("analyse", "rollout", "ok.png", "--model"),
    "export": ("export", "{}", "out.pt2"),
}
WITH_WEIGHTS: dict[str, tuple[str, ...]] = {
    "classify": ("classify", "ok.png", "--checkpoint"),
    "features": ("features", "ok.png", "--output", "f.npz", "--checkpoint"),
    "detect": ("detect", "ok.png", "--checkpoint"),
    "segment": ("segment", "ok.png", "--checkpoint"),
    "train": (*TRAIN, "--model", "dinat_pico", "--epochs", "1", "--warmup-epochs", "0", "--initial"),
    "validate": ("validate", "folder", "--checkpoint"),
    "convert": ("convert", "{}", "out.pth"),
    "attention": ("analyse", "attention", "ok.png", "--checkpoint"),
    "rollout": ("analyse", "rollout", "ok.png", "--checkpoint"),
    "export": ("export", "dinat_pico", "out.pt2", "--checkpoint"),
}
WITH_IMAGE: dict[str, tuple[str, ...]] = {
    "classify": ("classify",),
    "features": ("features", "--output", "f.npz"),
    "attention": ("analyse", "attention"),
    "rollout": ("analyse", "rollout"),
}
WITH_OUTPUT: dict[str, tuple[str, ...]] = {
    "features": ("features", "ok.png", "--output"),
    "convert": ("convert", "wrong.pth"),
    "export": ("export", "dinat_pico"),
    "operators": ("analyse", "operators", "--output"),
    "span": ("analyse", "span", "--plot"),
    "rollout": ("analyse", "rollout", "ok.png", "--plot"),
    "bench-layers": ("bench-layers", *BENCH, "--sizes", "7", "--plot"),
}
SUFFIX = {"features": ".npz", "convert": ".pth", "export": ".pt2", "operators": ""}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good files and bad ones."""
    place = tmp_path_factory.mktemp("inputs")
    Image.radial_gradient("L").resize((40, 30)).convert("RGB").save(place / "ok.png")
    (place / "torn.png").write_bytes((place / "ok.png").read_bytes()[:200])
    (place / "text.png").write_text("hello\n")
    (place / "empty.png").touch()
    (place / "nothing").mkdir()
    for name in ("a", "b"):
        (place / "folder" / name).mkdir(parents=True)
        (place / "folder" / name / "ok.png").write_bytes((place / "ok.png").read_bytes())
        (place / "torn" / name).mkdir(parents=True)
        (place / "torn" / name / "torn.png").write_bytes((place / "torn.png").read_bytes())
    torch.save({"weight": torch.zeros(3)}, place / "other.pth")
    (place / "torn.pth").write_bytes((place / "other.pth").read_bytes()[:100])
    small = timm.create_model("nat_mini", embed_dim=32, depths=(1, 1), num_heads=(1, 2))
    torch.save(small.state_dict(), place / "wrong.pth")
    return place


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, offline: None, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command among these files; gives its exit code and the error."""
    monkeypatch.chdir(place)

    def run(*arguments: str) -> tuple[int, str]:
        try:
            code = main(arguments)
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        out, err = capsys.readouterr()
        assert code == 0 or (out == "" and "error: " in err.splitlines()[-1]), (arguments, out, err)
        return code, err

    return run


def filled(command: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(part.format(name) for part in command) if "{}" in command else (*command, name)


@pytest.mark.parametrize("command", WITH_MODEL)
@pytest.mark.parametrize("name", ["dinat_mimi", "dinat_mini.no_such_tag", "", "../dinat"])
def test_unknown_models(run: Run, command: str, name: str) -> None:
    code, err = run(*filled(WITH_MODEL[command], name))
    assert code == 2
    assert repr(name) in err


def test_names_near_a_mistaken_one() -> None:
    check = one_of(["dinat_mini", "nat_mini"])
    assert check("dinat_mini.shi_labs_in1k") == "dinat_mini.shi_labs_in1k"
    for wrong, like in (("dinat_mimi", "dinat_mini"), ("dinat_mini.1k", "dinat_mini.shi_labs_in1k")):
        with pytest.raises(argparse.ArgumentTypeError, match=f"near it: {like}"):
            check(wrong)
    with pytest.raises(argparse.ArgumentTypeError):
        one_of(["upernet_dinat_mini"])("dinat_mini")


@pytest.mark.parametrize("command", WITH_WEIGHTS)
@pytest.mark.parametrize("weights", ["missing.pth", "text.png", "other.pth", "torn.pth", "nothing", "hf-hub:no/such"])
def test_weights_that_cannot_be_had(run: Run, command: str, weights: str) -> None:
    code, err = run(*filled(WITH_WEIGHTS[command], weights))
    assert code == 1
    assert weights.removeprefix("hf-hub:") in err or weights == "other.pth"


@pytest.mark.parametrize("command", sorted(WITH_WEIGHTS.keys() - {"convert"}))
def test_weights_of_another_model(run: Run, command: str) -> None:
    code, err = run(*filled(WITH_WEIGHTS[command], "wrong.pth"))
    assert code == 1
    assert "'wrong.pth' does not fit" in err


@pytest.mark.parametrize("command", WITH_IMAGE)
@pytest.mark.parametrize("image", ["missing.png", "text.png", "empty.png", "torn.png", "nothing"])
def test_files_that_are_no_images(run: Run, command: str, image: str) -> None:
    code, err = run(*WITH_IMAGE[command], image)
    assert code == 2
    assert f"{image}: " in err


@pytest.mark.parametrize("command", WITH_OUTPUT)
def test_outputs_that_cannot_be_written(run: Run, command: str, place: Path) -> None:
    suffix = SUFFIX.get(command, ".png")
    (place / f"folder{suffix}").mkdir(exist_ok=True)
    for output, reason in (
        (f"nowhere/out{suffix}", "there is no folder 'nowhere'"),
        (f"ok.png/out{suffix}", "there is no folder 'ok.png'"),
        (f"folder{suffix}", "it is a folder"),
        *([("out.xyz", "names no format; known are")] if suffix else []),
    ):
        code, err = run(*WITH_OUTPUT[command], output)
        assert code == 2
        assert reason in err


@pytest.mark.parametrize(
    "command", [(*TRAIN, "--model", "dinat_pico"), ("convert", "wrong.pth", "out", "--to", "hf", "--model", "nat_mini")]
)
def test_folders_that_cannot_be_made(run: Run, command: tuple[str, ...]) -> None:
    arguments = [{"run": "ok.png/run", "out": "ok.png/out"}.get(one, one) for one in command]
    code, err = run(*arguments)
    assert code == 2
    assert "'ok.png' is no folder" in err or "ok.png' is no folder" in err


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5", ""])
@pytest.mark.parametrize(
    "option",
    [
        ("classify", "ok.png", "--top-k"),
        ("features", "ok.png", "--output", "f.npz", "--batch-size"),
        ("detect", "ok.png", "--most"),
        ("segment", "ok.png", "--longest"),
        ("info", "dinat_pico", "--image-size"),
        ("train", "folder", "--model", "dinat_pico", "--output", "run", "--epochs"),
        ("train", "folder", "--model", "dinat_pico", "--output", "run", "--image-size"),
        ("validate", "folder", "--batch-size"),
        ("bench", "dinat_pico", "--batch"),
        ("bench", "dinat_pico", "--image-size"),
        ("bench", "dinat_pico", "--threads"),
        ("bench-layers", "--sizes"),
        ("analyse", "receptive-field", "dinat_pico", "--size"),
        ("analyse", "receptive-field", "dinat_pico", "--dilations"),
        ("analyse", "cost", "dinat_pico", "--batch"),
        ("analyse", "operators", "--side"),
        ("analyse", "span", "--kernel-size"),
        ("export", "dinat_pico", "out.pt2", "--input-size"),
    ],
    ids=lambda option: "-".join(option),
)
def test_numbers_that_are_none(run: Run, option: tuple[str, ...], number: str) -> None:
    code, err = run(*option, number)
    assert code == 2
    assert option[-1] in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench", "dinat_pico", "--seconds", "-1"),
        ("bench", "dinat_pico", "--seconds", "nan"),
        ("train", "folder", "--model", "dinat_pico", "--output", "run", "--workers", "-1"),
        ("train", "folder", "--model", "dinat_pico", "--output", "run", "--warmup-epochs", "-1"),
        ("train", "folder", "--model", "dinat_pico", "--output", "run", "--lr", "-1"),
        ("train", "folder", "--model", "dinat_pico", "--output", "run", "--mixup", "-1"),
        ("train", "folder", "--model", "dinat_pico", "--output", "run", "--smoothing", "2"),
        ("train", "folder", "--model", "dinat_pico", "--output", "run", "--erase", "-1"),
        ("train", "folder", "--model", "dinat_pico", "--output", "run", "--drop-path", "1"),
        ("train", "folder", "--model", "dinat_pico", "--output", "run", "--ema", "1"),
        ("train", "folder", "--model", "dinat_pico", "--output", "run", "--weight-decay", "-1"),
        ("train", "folder", "--model", "dinat_pico", "--output", "run", "--seed", "-1"),
        ("train", "nowhere", "--model", "dinat_pico", "--output", "run"),
        (*TRAIN, "--model", "dinat_pico", "--epochs", "1", "--warmup-epochs", "0", "--cooldown-epochs", "0", "torn"),
        ("validate", "nowhere"),
        ("validate", "torn", "--workers", "0"),
        ("validate", "folder", "--classes", "nothing"),
        ("validate", "folder", "--dilations", "9,9"),
        ("detect", "ok.png", "--threshold", "2"),
        ("analyse", "span", "--query", "99", "0"),
        ("analyse", "span", "--dilations", "100"),
        ("analyse", "attention", "ok.png", "--position", "2", "0"),
        ("analyse", "rollout", "ok.png", "--position", "nan", "0"),
        ("analyse", "attention", "ok.png", "--layer", "head"),
        ("bench-layers", "--sizes", "6"),
        ("bench-layers", "--heads", "3"),
        ("convert", "wrong.pth", "out", "--to", "hf"),
        ("info", "dinat_pico", "--device", "nowhere"),
        ("bench", "dinat_pico", "--device", "meta"),
        ("list", "more"),
        ("analyse",),
        ("nothing",),
    ],
    ids=" ".join,
)
def test_other_arguments(run: Run, arguments: tuple[str, ...]) -> None:
    if arguments[-1] == "torn" and arguments[0] == "train":
        arguments = ("train", "torn", *arguments[2:-1])
    assert run(*arguments)[0] == 2


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands of a parser by name."""
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(actions[0].choices) if actions else {}


def test_every_command_teaches_and_has_json(capsys: pytest.CaptureFixture[str]) -> None:
    parser = cli.parser()
    commands = subcommands(parser)
    assert len(commands) == 13
    for name, command in commands.items():
        text = command.format_help()
        assert f"examples:\n  dinat-zoo {name}" in text or f"dinat-zoo {name} " in text.split("examples:")[1], name
        assert command.description
        printing = subcommands(command) or {name: command}
        assert all("--json" in one.format_help() and one.description for one in printing.values()), name
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    assert "exit codes:" in capsys.readouterr().out


def test_the_documentation_has_every_command() -> None:
    page = Path(__file__).parents[4] / "docs" / "reference" / "commands.md"
    if not page.is_file():
        pytest.skip("an sdist has no documentation")
    text = page.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in subcommands(cli.parser()))


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt, 130), (BrokenPipeError, 141)])
def test_interruptions(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], raised: type[BaseException], code: int
) -> None:
    def stop(*arguments: Any) -> int:
        raise raised

    monkeypatch.setattr("dinat_zoo.cli._list.rows", stop)
    monkeypatch.setattr("os.dup2", lambda *descriptors: None)
    assert main(["list"]) == code
    assert "Traceback" not in capfd.readouterr().err


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", "operators", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["structure"] for row in rows][-1] == "SA-SA"
    assert main(["bench", "dinat_pico", *BENCH, "--image-size", "28", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["model"] == "dinat_pico"
