from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))  # as when bench_na.py runs as a script

torch.set_num_threads(1)  # the tests' problems are small, and their machines busy
