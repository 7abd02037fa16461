"""Rows of an analysis as an aligned table, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dinat_zoo._table import aligned

FORMATS = ("table", "csv", "markdown", "json")


def write(rows: Sequence[Any], form: str = "table") -> str:
    """Dataclass instances of one class as text; their attributes are the columns.

    Args:
        rows: at least one.
        form: of `FORMATS`. JSON and CSV have numbers whole; the others round them, to 4 digits or to thousandths of a
            million or a billion. A tuple is "7x7" where it is not JSON, None is empty.

    Raises:
        ValueError: for another format, or no rows.
    """
    if form not in FORMATS:
        raise ValueError(f"form is {form!r}; it must be one of {', '.join(map(repr, FORMATS))}.")
    if not rows:
        raise ValueError("rows is empty; there must be at least one.")
    records = [asdict(row) for row in rows]
    if form == "json":
        return json.dumps(records, indent=1)
    if form == "csv":
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerows([list(records[0]), *([_plain(value) for value in record.values()] for record in records)])
        return text.getvalue().rstrip("\n")
    header = [name.replace("_", " ") for name in records[0]]
    cells = [header, *([_short(value) for value in record.values()] for record in records)]
    return aligned(cells, markdown=form == "markdown")


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return "x".join("" if part is None else str(part) for part in value)
    return value


def _short(value: object) -> str:
    if value is None or value in ((None, None),):
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        for unit, letter in ((10**9, "G"), (10**6, "M")):
            if abs(value) >= unit:
                return f"{value / unit:.3f} {letter}"
    return str(_plain(value))
