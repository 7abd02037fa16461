"""The examples of the README and the documentation run as they stand, each page in one namespace from top to bottom."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("packages/*/README.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, info: str) -> Iterator[tuple[int, str]]:
    """Yields line number and text of the fenced blocks with exactly this info string."""
    text = page.read_text()
    for match in FENCE.finditer(text):
        if match[1].strip() == info:
            yield text.count("\n", 0, match.start(2)), match[2]


def named(pages: list[Path]) -> list[object]:
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


@pytest.mark.parametrize("page", named([page for page in PAGES if any(blocks(page, "python"))]))
def test_python_blocks_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, text in blocks(page, "python"):
        exec(compile("\n" * line + text, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", named([page for page in PAGES if any(blocks(page, "console"))]))
def test_console_commands_succeed(page: Path, run) -> None:
    for _, text in blocks(page, "console"):
        for line in text.splitlines():
            if line.startswith("$ "):
                done = run(*shlex.split(line[2:], comments=True))
                assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def test_pages_with_examples_were_found() -> None:
    assert {page.name for page in PAGES if any(blocks(page, "python"))} >= {"README.md", "quickstart.md", "concepts.md"}
    assert any(any(blocks(page, "console")) for page in PAGES)
