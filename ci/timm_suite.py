"""A pytest plugin that points timm's own `tests/test_models.py` at the models of dinat-zoo.

That file asks `timm.list_models` at import which models there are; here the answer is ours. `--zoo-models` chooses
among them. Of the tests that name models of timm, those of a contract that every model has run on ours instead; the
others, of one model of timm each, are left out. Pretrained weights are ours where they need no network.

`--zoo-record` writes how many tests each model passed into a table, in place of what it had of these models.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import timm

import dinat_zoo

# Contracts that timm's file tests on a sample of its own models, with colour images of a size of the test's.
SAMPLED = {
    "test_reset_classifier_keeps_pool",
    "test_prune_intermediate_layers_params_used",
    "test_feature_getter_stage_ends_torchscript",
}
_list_models = timm.list_models
_chosen: list[str] = []
_outcomes: dict[str, Counter[str]] = {}


def _list_ours(filter: Any = "", module: Any = "", pretrained: bool = False, **arguments: Any) -> list[str]:
    """`timm.list_models` of the chosen models; `module` names timm's families there, of which ours have no name."""
    names = _list_models(filter, pretrained=pretrained, **arguments)
    names = [name for name in names if name.split(".")[0] in _chosen]
    return [name for name in names if _is_here(name)] if pretrained else names


def _is_here(name: str) -> bool:
    file = timm.get_pretrained_cfg(name).file
    return bool(file) and Path(file).is_file()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The models to test, as patterns for `timm.list_models`."""
    parser.addoption("--zoo-models", nargs="+", default=[], help="patterns of dinat-zoo's models; all by default")
    parser.addoption("--zoo-record", type=Path, help="table of model, timm's version, tests passed and failed")


def pytest_configure(config: pytest.Config) -> None:
    """Replace timm's lists before its test file reads them."""
    patterns = config.getoption("--zoo-models") or "*"
    _chosen.extend(name for name in _list_models(patterns) if name in dinat_zoo.list_models())
    if not _chosen:
        raise pytest.UsageError(f"no model of dinat-zoo is like {patterns}")
    timm.list_models = _list_ours
    timm.list_pretrained = lambda filter="", exclude_filters="": _list_ours(
        filter, pretrained=True, exclude_filters=exclude_filters, include_tags=True
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the tests of SAMPLED our models."""
    if metafunc.function.__name__ not in SAMPLED:
        return
    cfgs = {name: timm.get_pretrained_cfg(name) for name in _chosen}
    fitting = [name for name, cfg in cfgs.items() if cfg.input_size[0] == 3 and not cfg.fixed_input_size]
    marks = metafunc.definition.own_markers
    for i, mark in enumerate(marks):
        if mark.name == "parametrize" and mark.args[0] == "model_name":
            marks[i] = pytest.mark.parametrize("model_name", fitting).mark


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what tests a model of timm."""
    ours = [item for item in items if _model_of(item).split(".")[0] in _chosen]
    config.hook.pytest_deselected(items=[item for item in items if item not in ours])
    items[:] = ours


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count a test that passed, and one that failed in any of its phases."""
    if report.failed or (report.when == "call" and report.passed):
        model = next(name for name in sorted(_chosen, key=len, reverse=True) if name in report.nodeid)
        _outcomes.setdefault(model, Counter())[report.outcome] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the table."""
    path: Path | None = session.config.getoption("--zoo-record")
    if path is None:
        return
    rows = {}
    if path.is_file():
        with path.open(newline="") as file:
            rows = {row["model"]: row for row in csv.DictReader(file)}
    for model, counts in _outcomes.items():
        results = {"passed": str(counts["passed"]), "failed": str(counts["failed"])}
        rows[model] = {"model": model, "timm": timm.__version__, **results}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("model", "timm", "passed", "failed"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[model] for model in sorted(rows))


def _model_of(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("model_name", "")) if callspec else ""
