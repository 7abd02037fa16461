"""The analyses of the DiNAT paper that need no clock."""

from __future__ import annotations

from dinat_zoo.analysis.costs import Cost, stage_costs
from dinat_zoo.analysis.figures import plot_fields
from dinat_zoo.analysis.operators import Operator, table1
from dinat_zoo.analysis.receptive_field import CENTER, Field, measured_fields, receptive_fields
from dinat_zoo.analysis.tables import FORMATS, write

__all__ = [
    "CENTER",
    "FORMATS",
    "Cost",
    "Field",
    "Operator",
    "measured_fields",
    "plot_fields",
    "receptive_fields",
    "stage_costs",
    "table1",
    "write",
]
