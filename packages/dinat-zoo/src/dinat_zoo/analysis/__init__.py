"""The analyses of the DiNAT paper that need no clock: what models cost, how far they see, where they look."""

from __future__ import annotations

from dinat_zoo.analysis.attention import (
    Weights,
    attention_layers,
    attention_span,
    attention_weights,
    mean_distance,
)
from dinat_zoo.analysis.axis import CENTER
from dinat_zoo.analysis.costs import Cost, stage_costs
from dinat_zoo.analysis.figures import plot_attention, plot_fields, plot_rollout, plot_span
from dinat_zoo.analysis.operators import Operator, table1
from dinat_zoo.analysis.receptive_field import Field, measured_fields, receptive_fields
from dinat_zoo.analysis.rollout import attention_rollout
from dinat_zoo.analysis.tables import FORMATS, write

__all__ = [
    "CENTER",
    "FORMATS",
    "Cost",
    "Field",
    "Operator",
    "Weights",
    "attention_layers",
    "attention_rollout",
    "attention_span",
    "attention_weights",
    "mean_distance",
    "measured_fields",
    "plot_attention",
    "plot_fields",
    "plot_rollout",
    "plot_span",
    "receptive_fields",
    "stage_costs",
    "table1",
    "write",
]
