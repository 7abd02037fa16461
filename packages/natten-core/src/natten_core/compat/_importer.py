"""Modules and a distribution that exist in memory only, found as those on disk are."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

NAME = "natten"


class Importer(metadata.DistributionFinder, Loader):
    """Finds and loads `natten` and its modules, and its metadata.

    Args:
        release: the version that the distribution has.
        modules: the contents of every module, by its full name.
    """

    def __init__(self, release: str, modules: Mapping[str, Mapping[str, Any]]) -> None:
        self.release = release
        self.modules = modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's specification, if it is one of ours."""
        if fullname not in self.modules:
            return None
        is_package = any(name.startswith(f"{fullname}.") for name in self.modules)
        return ModuleSpec(fullname, self, origin="natten_core.compat", is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> None:
        """Has Python make an ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        """Fills the module; `import natten` makes its submodules attributes, as it always did."""
        module.__dict__.update(self.modules[module.__name__])
        if module.__name__ == NAME:
            module.__dict__["__version__"] = self.release
            for name in self.modules:
                if name != NAME:
                    importlib.import_module(name)

    def find_distributions(self, context: Any = None) -> Iterator[metadata.Distribution]:
        """The distribution, where it is asked for by name or all are."""
        if context is None or context.name is None or context.name.lower() == NAME:
            yield _Distribution(self.release)


class _Distribution(metadata.Distribution):
    def __init__(self, release: str) -> None:
        self._release = release

    def read_text(self, filename: str) -> str | None:
        if filename != "METADATA":
            return None
        return f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {self._release}\nSummary: natten_core.compat\n"

    def locate_file(self, path: Any) -> Path:
        return Path(__file__).parent.joinpath(path)
