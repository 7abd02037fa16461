"""Progress bars, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_FROM = 32  # fewer steps are done before a bar could be read


@contextmanager
def progress(what: str, total: int, least: int = _FROM) -> Iterator[Callable[[], None]]:
    """A bar of `total` steps, from `least` of them on; gives what is to be called after every step."""
    with Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=total < least,
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
