"""Models against each other, one setting at a time."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import timm
import torch

from dinat_zoo.bench.jobs import ModelJob, Step
from dinat_zoo.bench.memory import Job, peak_memory
from dinat_zoo.bench.rows import Row, Setting, make_rows
from dinat_zoo.bench.timing import interleave


def bench_models(
    models: Sequence[str],
    settings: Iterable[Setting],
    *,
    seconds: float = 5.0,
    rounds: int = 5,
    memory: bool = True,
    channels_last: Collection[str] = (),
) -> Iterator[Row]:
    """Images a second and peak memory of models under each setting, as the rows come.

    Args:
        models: names that timm knows; the first is the unit of the ratios.
        settings: what to run them on.
        seconds: the least time to spend on each setting, all models together.
        rounds: the least number of rounds, in each of which every model takes a turn.
        memory: whether to measure peak memory too; on a CPU that takes a process per model and setting.
        channels_last: the models whose weights and images shall be in this memory format.

    Yields:
        A row per setting and model, in order. Where a model fails, for want of memory say, the row has the error.

    Raises:
        ValueError: for a name that timm does not know, one given twice, or no name.
    """
    models = list(models)
    unknown = [name for name in (*models, *channels_last) if not timm.is_model(name.split(".")[0])]
    if unknown or not models or len(set(models)) < len(models):
        wrong = f"models has {unknown[0]!r}, which timm does not know" if unknown else f"models is {models}"
        raise ValueError(f"{wrong}; give different names of timm's models, such as 'dinat_tiny'.")
    for setting in settings:
        jobs = {name: ModelJob(name, setting, name in channels_last) for name in models}
        yield from bench_jobs(jobs, setting, seconds, rounds, memory, channels_last)


def bench_jobs(
    jobs: Mapping[str, Job],
    setting: Setting,
    seconds: float,
    rounds: int,
    memory: bool,
    channels_last: Collection[str] = (),
) -> list[Row]:
    """All jobs of one setting: memory of each alone, then the times, taking turns."""
    errors: dict[str, str] = {}
    weights: dict[str, float] = {}
    steps: dict[str, Step] = {}
    threads = torch.get_num_threads()
    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    try:
        for name, job in jobs.items() if memory else ():
            with _noting(errors, name):
                weights[name] = peak_memory(job)
        for name, job in jobs.items():
            if name not in errors:
                with _noting(errors, name):
                    steps[name] = _ready(job)
        samples = interleave(steps, seconds, rounds, setting.device)
        return make_rows(list(jobs), setting, samples, weights, errors, list(channels_last))
    finally:
        torch.set_num_threads(threads)
        steps.clear()
        gc.collect()
        if torch.device(setting.device).type == "cuda":
            torch.cuda.empty_cache()


def _ready(job: Job) -> Step:
    step = job.step()
    step()  # compiles, and fails if it must
    return step


@contextmanager
def _noting(errors: dict[str, str], name: str) -> Iterator[None]:
    """Whatever a model raises becomes its error, so that the others are still measured."""
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines()
        errors[name] = f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
