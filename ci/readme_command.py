"""Prints a command of the README, so that CI runs what the README says: `python ci/readme_command.py install`.

A command is the fenced block that follows a line `<!-- command: NAME -->`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
COMMAND = re.compile(r"^<!-- command: (\w+) -->\n+```\w*\n(.*?)\n```$", re.MULTILINE | re.DOTALL)


def commands(text: str) -> dict[str, str]:
    """Returns a page's named commands."""
    return dict(COMMAND.findall(text))


def main(arguments: list[str]) -> int:
    """Prints the one command asked for; exits with 2 if the README has no such command."""
    found = commands(README.read_text())
    if len(arguments) != 1 or arguments[0] not in found:
        print(f"usage: readme_command.py NAME, with a NAME of {sorted(found)}", file=sys.stderr)
        return 2
    print(found[arguments[0]])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
