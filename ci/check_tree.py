"""Rules of the tree that no other tool checks; prints each breach and exits with 1 if there are any.

- csrc/ outside bindings/ includes neither torch nor Python nor numpy nor pybind11, and nothing at all includes torch:
  one wheel serves every torch version because of it.
- No page that a person reads keeps a mark of something still to be filled in.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOREIGN = re.compile(r'^\s*#\s*include\s*[<"]((?:torch|ATen|c10|Python\.h|numpy|pybind11)[^>"]*)', re.MULTILINE)
TORCH = ("torch", "ATen", "c10")
UNFILLED = re.compile(r"<<[^<>\n]*>>|\bTODO\b|\bFIXME\b")


def foreign_includes(csrc: Path) -> list[str]:
    """Returns a line for every include that lets torch, Python or numpy into the C++ core."""
    breaches = []
    for path in sorted(csrc.rglob("*")):
        if path.suffix not in {".cpp", ".h", ".cu", ".cuh"}:
            continue
        inside_bindings = "bindings" in path.relative_to(csrc).parts
        for header in FOREIGN.findall(path.read_text()):
            if not inside_bindings or header.startswith(TORCH):
                breaches.append(f"{path}: includes {header}; torch, Python and numpy stop at csrc/bindings")
    return breaches


def unfilled_marks(pages: list[Path]) -> list[str]:
    """Returns a line for every place that a page marks as still to be filled in."""
    return [f"{page}: still to be filled in: {mark}" for page in pages for mark in UNFILLED.findall(page.read_text())]


def main() -> int:
    """Checks the tree that this file lies in."""
    pages = sorted([*ROOT.glob("*.md"), *ROOT.glob("packages/*/*.md"), *(ROOT / "docs").rglob("*.md")])
    breaches = foreign_includes(ROOT / "packages/natten-core/csrc") + unfilled_marks(pages)
    print(*(breaches or [f"tree: {len(pages)} pages and the includes of csrc are in order"]), sep="\n")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
