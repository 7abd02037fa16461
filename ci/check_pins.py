"""Checks that versions agree: between the packages, with the changelog, and the licence copies with each other.

Prints each disagreement and exits with 1 if there are any. Needs `packaging`, and `tomli` before Python 3.11.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("natten-core", "dinat-zoo")


def disagreements(root: Path) -> list[str]:
    """Returns a line for every version, range or licence under `root` that does not fit the others."""
    projects = {name: read_project(root / "packages" / name) for name in PACKAGES}
    found = []
    for name, project in projects.items():
        init = (root / "packages" / name / "src" / name.replace("-", "_") / "__init__.py").read_text()
        in_code = re.search(r'^__version__(?:: \w+)? = "([^"]+)"', init, re.MULTILINE)
        if in_code and in_code[1] != project["version"]:
            found.append(f"{name}: __version__ is {in_code[1]}, pyproject.toml says {project['version']}")
        if not re.search(rf"^## {name} {re.escape(project['version'])}\b", changelog(root), re.MULTILINE):
            found.append(f"CHANGELOG.md: no heading '## {name} {project['version']}'")
        if (root / "packages" / name / "LICENSE").read_bytes() != (root / "LICENSE").read_bytes():
            found.append(f"packages/{name}/LICENSE: differs from the LICENSE at the root")
    needed = [Requirement(text) for text in projects["dinat-zoo"]["dependencies"]]
    version = projects["natten-core"]["version"]
    for requirement in needed:
        if requirement.name == "natten-core" and not requirement.specifier.contains(version, prereleases=True):
            found.append(f"dinat-zoo asks for {requirement}, which does not admit the natten-core {version} beside it")
    if not any(requirement.name == "natten-core" for requirement in needed):
        found.append("dinat-zoo does not depend on natten-core")
    return found


def read_project(package: Path) -> dict[str, Any]:
    """Returns the `[project]` table of a package."""
    table: dict[str, Any] = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    return table


def changelog(root: Path) -> str:
    """Returns the changelog's text."""
    return (root / "CHANGELOG.md").read_text()


def main() -> int:
    """Checks the tree that this file lies in."""
    found = disagreements(ROOT)
    print(*(found or ["pins: versions, ranges, changelog and licences agree"]), sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
