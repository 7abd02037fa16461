"""`import natten` for code that was written for NATTEN 0.14 to 0.21, answered by natten-core.

    import natten_core.compat

    natten_core.compat.install("0.14")  # before anything imports natten, or asks whether it is there
    from natten.functional import natten2dav, natten2dqkrpb

`python -m natten_core.compat 0.14 script.py arguments` does that for a script that is left as it is. Nothing of this is
imported with `natten_core`.
"""

from __future__ import annotations

import sys

from natten_core.compat._eras import ERAS
from natten_core.compat._importer import Importer

__all__ = ["install", "installed", "uninstall"]


def install(version: str) -> None:
    """Makes `import natten` answer with the names, layouts and semantics of a version of NATTEN.

    `importlib.util.find_spec("natten")`, `importlib.metadata.version("natten")` and `natten.__version__` answer too, so
    that libraries which look for NATTEN find it; those that look when they are imported, as transformers does, must be
    imported after this call. An installed NATTEN is hidden, not touched.

    Args:
        version: "0.14", "0.15", "0.17" or "0.21", which report the last release of that name; or a release, such as
            "0.17.3", which is reported as given and answers as its minor version does.

    Raises:
        ValueError: a version that is not known.
        RuntimeError: NATTEN is imported already, or another version is installed by this function.

    Example:
        >>> import natten_core.compat
        >>> natten_core.compat.install("0.17")
        >>> import natten
        >>> natten.__version__
        '0.17.5'
        >>> natten_core.compat.uninstall()
    """
    era = ERAS.get(".".join(version.split(".")[:2]))
    if era is None or not all(part.isdecimal() for part in version.split(".")):
        raise ValueError(f"version must be {', '.join(ERAS)}, or a release of one of these, got {version!r}")
    release = version if version.count(".") > 1 else era.release
    if installed() is not None:
        if installed() != release:
            raise RuntimeError(f"natten_core.compat answers as natten {installed()} already: call uninstall() first")
        return
    if "natten" in sys.modules:
        where = getattr(sys.modules["natten"], "__file__", None) or "an unknown place"
        raise RuntimeError(
            f"natten is imported already, from {where}: call natten_core.compat.install before anything imports it, "
            "or do without, since there is a natten"
        )
    sys.meta_path.insert(0, Importer(release, era.modules()))


def uninstall() -> None:
    """Takes back what `install` did; what was imported from it stays usable. Does nothing if nothing is installed."""
    for importer in _importers():
        sys.meta_path.remove(importer)
        for name in importer.modules:
            sys.modules.pop(name, None)


def installed() -> str | None:
    """The release that `import natten` answers as, or None when `install` was not called."""
    return next((importer.release for importer in _importers()), None)


def _importers() -> list[Importer]:
    return [finder for finder in sys.meta_path if isinstance(finder, Importer)]
