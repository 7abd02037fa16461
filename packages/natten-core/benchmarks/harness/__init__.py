"""The parts of `bench_na.py`: problems, contenders, timing, the machine's floors, checks and reports."""

from __future__ import annotations
