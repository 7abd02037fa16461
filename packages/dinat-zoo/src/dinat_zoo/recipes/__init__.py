"""How the weights that this package ships were made: scripts to run again, one package per data set."""

from __future__ import annotations
