"""`python -m natten_core.compat VERSION script.py ...`: runs a script or a module that imports NATTEN."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from natten_core.compat import install

_USAGE = """usage: python -m natten_core.compat VERSION SCRIPT.py [ARGUMENT ...]
       python -m natten_core.compat VERSION -m MODULE [ARGUMENT ...]

Runs a Python script or module with `import natten` answered by natten-core as NATTEN's VERSION, which is 0.14, 0.15,
0.17, 0.21 or a release of one of these."""


def main() -> None:
    """Does what the command line says."""
    version, *rest = sys.argv[1:] or [""]
    if version in ("-h", "--help"):
        print(_USAGE)
        return
    as_module = rest[:1] == ["-m"]
    command = rest[as_module:]
    if not command:
        sys.exit(_USAGE)
    try:
        install(version)
    except ValueError as error:
        sys.exit(f"python -m natten_core.compat: {error}")
    sys.argv = command
    if as_module:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(command[0]).resolve().parent)
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main()
