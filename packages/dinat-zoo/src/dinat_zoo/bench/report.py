"""Rows as a table, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields

from dinat_zoo._machine import machine
from dinat_zoo._table import aligned
from dinat_zoo.bench.profile import Share
from dinat_zoo.bench.rows import Row

FORMATS = ("table", "markdown", "csv", "json")
Entries = Sequence[Row] | Sequence[Share]


def write(rows: Entries, form: str = "table") -> str:
    """Rows, or a profile's shares, in one of `FORMATS`; JSON has the machine and the versions too.

    Raises:
        ValueError: for another format.
    """
    if form == "json":
        return json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}, indent=1)
    if form == "csv":
        text = io.StringIO()
        names = [field.name for field in fields(rows[0])] if rows else []
        lines = csv.DictWriter(text, names, lineterminator="\n")
        lines.writeheader()
        lines.writerows(asdict(row) for row in rows)
        return text.getvalue().rstrip("\n")
    if form not in FORMATS:
        raise ValueError(f"form is {form!r}; it must be one of {', '.join(map(repr, FORMATS))}.")
    lines_of_cells = [_row(row) if isinstance(row, Row) else _share(row) for row in rows]
    header = ROW_HEADER if not rows or isinstance(rows[0], Row) else SHARE_HEADER
    failed = [f"{row.model}: {row.error}" for row in rows if isinstance(row, Row) and row.error]
    return "\n".join([aligned([header, *lines_of_cells], markdown=form == "markdown"), *failed])


ROW_HEADER = ("model", "setting", "images/s", "ms", "q1 - q3", "speed", "q1 - q3", "memory")
SHARE_HEADER = ("operators", "ms", "share", "calls")


def _row(row: Row) -> tuple[str, ...]:
    flags = ("compiled" if row.compiled else "", "channels-last" if row.channels_last else "")
    where = row.device if row.device != "cpu" else f"{row.threads} thread{'s' if row.threads > 1 else ''}"
    setting = " ".join(filter(None, (f"{row.batch}x{row.image_size}", row.mode, row.dtype, where, *flags)))
    memory = "" if row.memory_mib is None else f"{row.memory_mib:.0f} MiB"
    if row.ms is None or row.images_per_second is None:
        return row.model, setting, "failed", "", "", "", "", memory
    speed, spread = "", ""
    if row.ratio is not None:
        speed, spread = f"{row.ratio:.2f}x", f"{row.ratio_q1:.2f} - {row.ratio_q3:.2f}"
    ms = f"{row.ms_q1:.4g} - {row.ms_q3:.4g}"
    return row.model, setting, f"{row.images_per_second:.4g}", f"{row.ms:.4g}", ms, speed, spread, memory


def _share(share: Share) -> tuple[str, ...]:
    return share.kind, f"{share.ms:.2f}", f"{share.share:.1%}", str(share.calls)
