from __future__ import annotations

import re
import shlex


def test_install_command_installs_both_packages_and_classifies(root, ci_script) -> None:
    steps = ci_script("readme_command").commands((root / "README.md").read_text())["install"].split(" && ")
    assert [shlex.split(step)[0] for step in steps] == ["python3", ".venv/bin/pip", ".venv/bin/dinat-zoo"]
    folders = shlex.split(steps[1])[2:]
    assert sorted(folders) == ["./packages/dinat-zoo", "./packages/natten-core"]
    assert all((root / folder / "pyproject.toml").is_file() for folder in folders)


def test_ci_runs_both_commands_of_the_readme(root, ci_script) -> None:
    commands = ci_script("readme_command").commands((root / "README.md").read_text())
    loop = re.search(r"^for name in (.*); do$", (root / ".ci/run").read_text(), re.MULTILINE)
    assert loop
    assert sorted(loop[1].split()) == sorted(commands) == ["install", "test"]
    assert commands["test"].split(" && ")[-1].startswith(".venv/bin/nox")


def test_output_shown_is_the_output(root, run) -> None:
    """The README shows part of what its first command prints; each image shown there is given the same class."""
    shown = re.search(r"<!-- output: classify -->\n+```text\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    assert shown
    done = run("dinat-zoo", "classify", "examples/")
    assert done.returncode == 0, done.stderr
    answers = best_classes(done.stdout)
    assert set(answers) == {str(image.relative_to(root)) for image in (root / "examples").glob("*.[jp][pn]g")}
    assert len(best_classes(shown[1])) >= 2
    assert best_classes(shown[1]).items() <= answers.items()


def best_classes(output: str) -> dict[str, str]:
    """The class that stands first under each file name."""
    return dict(re.findall(r"^(\S+)\n +(.+?) +[\d.]+%", output, re.MULTILINE))
