"""Models as graphs that run elsewhere: `torch.export` programs and ONNX files.

ONNX files need onnx and onnxscript, and checking them onnxruntime: `pip install 'dinat-zoo[export]'`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dinat_zoo._tokens import image_channels
from dinat_zoo._weights_file import first_line
from dinat_zoo.analysis.axis import Everything, Neighborhood
from dinat_zoo.analysis.structure import walk
from natten_core import decompositions

__all__ = ["ExportError", "SizeRule", "check", "size_rule", "to_onnx", "to_program"]

Size = int | tuple[int, int]
SUFFIXES = (".onnx", ".pt2")
TOLERANCE = 1e-4
"""Largest difference to the model that passes, relative to the largest value of an output."""


class ExportError(RuntimeError):
    """A model that cannot be exported as asked, or a package that this needs and that is not installed."""


class SizeRule(NamedTuple):
    """Which images a graph of any size takes: both sides are multiples of `step`, and at least `least`."""

    step: int
    least: int


def size_rule(model: nn.Module) -> SizeRule:
    """What images a model takes without padding anything: whole tokens of its last level, and maps of whole windows.

    Raises:
        ExportError: a layer attends to the whole map, with biases for one size.
    """
    stride = least = 1
    for layer in walk(model):
        stride *= max(axis.stride for axis in layer.axes)
        for axis in layer.axes:
            if isinstance(axis, Everything):
                raise ExportError(
                    f"{layer.name} attends to the whole map and has biases for one size: export it for one size, "
                    "without dynamic_size"
                )
            if isinstance(axis, Neighborhood):
                least = max(least, axis.kernel_size * axis.dilation * stride)
    return SizeRule(stride, -(-least // stride) * stride)


def to_program(
    model: nn.Module,
    input_size: Size | None = None,
    *,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
    decompose: bool = False,
) -> ExportedProgram:
    """The graph of a model, for images of one size or of any.

    Args:
        model: a model of this package in evaluation mode: a classifier, the result of `features_only=True`, a
            `dense.Backbone` or a `dense.Segmenter`. Detectors have results of varying sizes and cannot be exported.
        input_size: side of the images, or height and width; the size of the model's configuration when None.
        dynamic_batch: whether the graph takes any number of images; else it takes one.
        dynamic_size: whether it takes images of any height and width that `size_rule` allows; `input_size` is then not
            to be given. Tracing takes minutes for deep models.
        decompose: whether to replace the operators of natten-core by plain ones (`natten_core.decompositions`). The
            graph is then slower in torch, and runs where natten-core is not installed.

    Returns:
        The program, with the input `[B, C, height, width]` in the dtype and on the device of the model's parameters.
        `torch.export.save` writes it; without `decompose`, natten-core must be imported before it is loaded.

    Raises:
        ExportError: the model is in training mode, has no configured size and none was given, has layers for one size
            that were to be of any, or cannot be traced, such as with images of a size that it does not take.
    """
    rule = size_rule(model) if dynamic_size else None
    batch = 2 if dynamic_batch else 1  # a batch of one would be taken for a constant
    images = example(model, _sizes(input_size, rule)[-1], batch)
    with _failing_as(f"cannot export {type(model).__name__} for images of shape {list(images.shape)}"):
        program = torch.export.export(model, (images,), dynamic_shapes=_dynamic(dynamic_batch, rule), strict=False)
    return program.run_decompositions(decompositions()) if decompose else program


def to_onnx(
    model: nn.Module,
    path: str | Path,
    input_size: Size | None = None,
    *,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
) -> None:
    """Write a model as an ONNX file of standard operators, for images of one size or of any.

    Its input is called `images`, its output `output`, or `output_0`, `output_1`, ... where the model gives several.
    `natten_core.decompositions` says what neighborhood attention becomes.

    Args:
        model: see `to_program`.
        path: the file to write; the weights lie in it too, so that it may not exceed 2 GB.
        input_size: see `to_program`.
        dynamic_batch: whether the file takes any number of images; else it takes one.
        dynamic_size: see `to_program`. The file fails, in a Reshape or a Gather, on images that `size_rule` does not
            allow. Attention then gathers one row of every window at a time and is slower than with constant indices.

    Raises:
        ExportError: as `to_program`; or onnx or onnxscript are not installed.
    """
    for name in ("onnx", "onnxscript"):
        needed(name, "writing ONNX files")
    shape = {"dynamic_batch": dynamic_batch, "dynamic_size": dynamic_size}
    whole = _WholeSteps(model, size_rule(model).step).eval() if dynamic_size and not model.training else model
    program = to_program(whole, input_size, **shape, decompose=True)
    names = {0: "batch"} if dynamic_batch else {}
    names |= {2: "height", 3: "width"} if dynamic_size else {}
    outputs = len(program.graph_signature.user_outputs)
    try:
        torch.onnx.export(
            program,
            f=Path(path),
            input_names=["images"],
            output_names=["output"] if outputs == 1 else [f"output_{i}" for i in range(outputs)],
            dynamic_shapes=(names,) if names else None,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"torch cannot write {type(model).__name__} as ONNX: {first_line(error)}") from error


def check(
    model: nn.Module,
    path: str | Path,
    input_size: Size | None = None,
    *,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
) -> float:
    """Run an exported file and the model on the same random images, three if the batch is dynamic, else one.

    Args:
        model: the model that the file was made of.
        path: an ONNX file, run by onnxruntime on the CPU, or a program (`.pt2`), run by torch.
        input_size: that of the export.
        dynamic_batch: that of the export.
        dynamic_size: that of the export; the smallest images and larger ones are then run.

    Returns:
        The largest difference of an output over its largest value; rounding makes 1e-6 of it in float32.

    Raises:
        ExportError: the outputs are not as many or not of the same shape; the file cannot be run; or onnxruntime is
            needed and not installed.
    """
    run = _runner(Path(path))
    differences = []
    for size in _sizes(input_size, size_rule(model) if dynamic_size else None):
        images = example(model, size, 3 if dynamic_batch else 1)
        with torch.no_grad():
            expected, found = _flat(model(images)), run(images)
        shapes = [[list(tensor.shape) for tensor in tensors] for tensors in (found, expected)]
        if shapes[0] != shapes[1]:
            raise ExportError(f"{str(path)!r} gives outputs of shapes {shapes[0]}; the model gives {shapes[1]}")
        differences += [
            float((ours.cpu().double() - theirs.cpu().double()).abs().max() / theirs.abs().max().cpu().double())
            for ours, theirs in zip(found, expected, strict=True)
        ]
    return max(differences, key=lambda difference: math.inf if math.isnan(difference) else difference)


def example(model: nn.Module, input_size: Size | None, batch: int) -> Tensor:
    """Random images for a model, the same ones at every call."""
    if model.training:
        raise ExportError("the model is in training mode: call its eval() first")
    if input_size is None:
        configured: Any = next((m.pretrained_cfg for m in model.modules() if hasattr(m, "pretrained_cfg")), None)
        if configured is None:
            raise ExportError(f"{type(model).__name__} has no configured input size: give input_size")
        input_size = tuple(configured["input_size"][1:])
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    like = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, image_channels(model), height, width, generator=generator).to(like)


def needed(name: str, purpose: str) -> Any:
    """An optional package.

    Raises:
        ExportError: if it is not installed; the message says how to get it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ExportError(f"{purpose} needs {name}: pip install 'dinat-zoo[export]'") from error


def _sizes(input_size: Size | None, rule: SizeRule | None) -> list[Size | None]:
    """The sizes of example images: the one that was given, or two that a rule allows."""
    if rule is None:
        return [input_size]
    if input_size is not None:
        raise ExportError(f"input_size is {input_size}; with dynamic_size there is none to give: any size will do")
    step, least = rule
    return [(least, least), (least + step, least + 2 * step)]


def _dynamic(batch: bool, rule: SizeRule | None) -> tuple[dict[int, Any]] | None:
    """torch's description of the axes that vary."""
    axes: dict[int, Any] = {0: Dim("batch")} if batch else {}
    if rule is not None:
        axes |= {i: rule.step * Dim(f"steps_of_{i}", min=rule.least // rule.step) for i in (2, 3)}
    return (axes,) if axes else None


class _WholeSteps(nn.Module):
    """A model of images whose sides are multiples of a step: of others its graph fails instead of cutting them off."""

    def __init__(self, model: nn.Module, step: int) -> None:
        super().__init__()
        self.model, self.step = model, step

    def forward(self, images: Tensor) -> Any:
        _, _, height, width = images.shape
        parts = images.unflatten(3, (width // self.step, self.step)).unflatten(2, (height // self.step, self.step))
        return self.model(parts.flatten(4).flatten(2, 3))


def _runner(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """What runs a file."""
    if path.suffix == ".pt2":
        with _failing_as(f"torch cannot load {str(path)!r}"):
            program = torch.export.load(path).module()
        return lambda images: _flat(program(images))
    onnxruntime = needed("onnxruntime", "running ONNX files")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, and need not be printed too
    with _failing_as(f"onnxruntime cannot load {str(path)!r}, on a CPU it takes float32 and float16 models"):
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    [images_] = session.get_inputs()

    def run(images: Tensor) -> list[Tensor]:
        with _failing_as(f"onnxruntime cannot run {str(path)!r} on images of shape {list(images.shape)}"):
            outputs = session.run(None, {images_.name: images.cpu().numpy()})
        return [torch.from_numpy(output) for output in outputs]

    return run


@contextmanager
def _failing_as(what: str) -> Iterator[None]:
    """Errors of any kind as one of ours: torch's tracers and onnxruntime have many, with no class in common."""
    try:
        yield
    except Exception as error:
        raise ExportError(f"{what}: {first_line(error)}") from error


def _flat(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
