"""Text in columns."""

from __future__ import annotations

from collections.abc import Container, Sequence


def aligned(rows: Sequence[Sequence[str]], *, markdown: bool = False, right: Container[str] = ()) -> str:
    """Rows of cells as lines with columns of equal width, the first row being the header.

    Args:
        rows: the header, then the others, all of one length.
        markdown: with the bars and the rule of a Markdown table.
        right: the headers of columns that are flush right.
    """
    columns = []
    for column in zip(*rows, strict=True):
        width = max(map(len, column))
        columns.append([f"{cell:>{width}}" if column[0] in right else f"{cell:<{width}}" for cell in column])
    lines = list(zip(*columns, strict=True))
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in lines)
    rule = tuple("-" * len(cell) for cell in lines[0])
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
