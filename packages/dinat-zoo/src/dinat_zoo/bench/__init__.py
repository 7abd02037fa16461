"""Speed and memory of models and of attention layers, measured side by side on the machine at hand.

The protocol of the paper's Tables 3-5 and III: images a second and peak memory at one batch size, with random weights
and images. What is compared takes turns in one process, so that a slow spell of the machine touches everybody.
"""

from __future__ import annotations

from dinat_zoo.bench.jobs import LayerJob, ModelJob
from dinat_zoo.bench.layers import LAYERS, bench_layers, plot_layers
from dinat_zoo.bench.memory import peak_memory
from dinat_zoo.bench.models import bench_models
from dinat_zoo.bench.profile import Share, profile_model
from dinat_zoo.bench.report import FORMATS, write
from dinat_zoo.bench.rows import Row, Setting
from dinat_zoo.bench.timing import interleave

__all__ = [
    "FORMATS",
    "LAYERS",
    "LayerJob",
    "ModelJob",
    "Row",
    "Setting",
    "Share",
    "bench_layers",
    "bench_models",
    "interleave",
    "peak_memory",
    "plot_layers",
    "profile_model",
    "write",
]
