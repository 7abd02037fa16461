"""Image files and folders that a command was given: found, read, and what to say about those that are none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, UnidentifiedImageError

_NAMES_IN_A_NOTE = 5
_T = TypeVar("_T")


@dataclass(frozen=True)
class Source:
    """A file to read, and the folder that was named if the file itself was not."""

    path: Path
    folder: Path | None = None


@dataclass
class Report:
    """What became of the files that gave no result."""

    skipped: list[tuple[Source, str]] = field(default_factory=list)
    errors: list[tuple[Path, str]] = field(default_factory=list)

    def finish(self, named: Sequence[Path], done: Sequence[Path]) -> None:
        """Note folders without an image, then say on stderr what gave no result: a note a folder, an error a file."""
        for folder in (path for path in named if path.is_dir()):
            if not any(path.is_relative_to(folder) for path in done):
                self.errors.append((folder, "no image in this folder"))
        for place, group in groupby(self.skipped, key=lambda item: item[0].folder):
            skipped = list(group)
            names = [f"{source.path.relative_to(place or '.')} ({reason})" for source, reason in skipped]
            more = "" if len(names) <= _NAMES_IN_A_NOTE else f", and {len(names) - _NAMES_IN_A_NOTE} more"
            files = "1 file" if len(names) == 1 else f"{len(names)} files"
            print(
                f"dinat-zoo: note: skipped {files} in {place}: {', '.join(names[:_NAMES_IN_A_NOTE])}{more}",
                file=sys.stderr,
            )
        for path, reason in self.errors:
            print(f"dinat-zoo: error: {path}: {reason}", file=sys.stderr)

    def rest(self) -> dict[str, Any]:
        """The files without a result, for a JSON document."""
        return {
            "skipped": [{"file": str(source.path), "reason": reason} for source, reason in self.skipped],
            "errors": [{"file": str(path), "reason": reason} for path, reason in self.errors],
        }


def find_images(named: Sequence[Path], report: Report) -> list[Source]:
    """Every file that was named, and every file in the folders that were; what does not exist goes to the report."""
    sources = []
    for path in named:
        if path.is_dir():
            sources += [Source(file, path) for file in sorted(path.rglob("*")) if file.is_file()]
        elif path.exists():
            sources.append(Source(path))
        else:
            report.errors.append((path, "no such file"))
    return sources


def read_images(
    sources: Sequence[Source],
    transform: Callable[[Image.Image], _T],
    report: Report,
    advance: Callable[[], None],
) -> Iterator[tuple[Source, _T]]:
    """Read and transform; what is no image is an error if it was named, and a note if it lay in a folder."""
    for source in sources:
        advance()
        image = read_image(source.path)
        if isinstance(image, Image.Image):
            yield source, transform(image)
        elif source.folder is None:
            report.errors.append((source.path, image))
        else:
            report.skipped.append((source, image))


def read_image(path: Path) -> Image.Image | str:
    """The image in a file, or the reason why there is none."""
    try:
        with Image.open(path) as file:
            image: Image.Image = file.copy()
            return image
    except UnidentifiedImageError:
        return "not an image"
    # Pillow's decoders report broken files with any of these.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        return f"cannot be read as an image: {error}"
