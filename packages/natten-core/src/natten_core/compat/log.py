"""`natten.utils.log`: loggers whose level is in the environment, as NATTEN's."""

from __future__ import annotations

import logging
import os


def get_logger(name: str) -> logging.Logger:
    """The logger of that name, at the level in NATTEN_LOG_LEVEL ("debug" to "critical"; "info" where it is not set)."""
    logger = logging.getLogger(name)
    level = logging.getLevelName(os.environ.get("NATTEN_LOG_LEVEL", "info").upper())
    logger.setLevel(level if isinstance(level, int) else logging.INFO)
    return logger
