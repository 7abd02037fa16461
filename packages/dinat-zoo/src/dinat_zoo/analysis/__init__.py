"""The analyses of the paper that need no clock."""

from __future__ import annotations
