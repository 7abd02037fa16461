"""Models as graphs that run elsewhere: `torch.export` programs and ONNX files.

ONNX files need onnx and onnxscript, and checking them onnxruntime: `pip install 'dinat-zoo[export]'`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dinat_zoo._tokens import image_channels
from dinat_zoo._weights_file import first_line
from natten_core import decompositions

__all__ = ["ExportError", "check", "to_onnx", "to_program"]

SUFFIXES = (".onnx", ".pt2")
TOLERANCE = 1e-4
"""Largest difference to the model that passes, relative to the largest value of an output."""


class ExportError(RuntimeError):
    """A model that cannot be exported as asked, or a package that this needs and that is not installed."""


def to_program(
    model: nn.Module,
    input_size: int | tuple[int, int] | None = None,
    *,
    dynamic_batch: bool = False,
    decompose: bool = False,
) -> ExportedProgram:
    """The graph of a model for images of one size.

    Args:
        model: a model of this package in evaluation mode: a classifier, the result of `features_only=True`, a
            `dense.Backbone` or a `dense.Segmenter`. Detectors have results of varying sizes and cannot be exported.
        input_size: side of the images, or height and width; the size of the model's configuration when None.
        dynamic_batch: whether the graph takes any number of images; else it takes one.
        decompose: whether to replace the operators of natten-core by plain ones (`natten_core.decompositions`). The
            graph is then slower in torch, and runs where natten-core is not installed.

    Returns:
        The program, with the input `[B, C, height, width]` in the dtype and on the device of the model's parameters.
        `torch.export.save` writes it; without `decompose`, natten-core must be imported before it is loaded.

    Raises:
        ExportError: the model is in training mode, has no configured size and none was given, or cannot be traced, such
            as with images of a size that it does not take.
    """
    batch = 2 if dynamic_batch else 1  # a batch of one would be taken for a constant
    images = example(model, input_size, batch)
    try:
        program = torch.export.export(model, (images,), dynamic_shapes=_dynamic(dynamic_batch), strict=False)
    except Exception as error:  # torch's tracers raise errors of many kinds, those of the model's own among them
        what = f"{type(model).__name__} for images of shape {list(images.shape)}"
        raise ExportError(f"cannot export {what}: {first_line(error)}") from error
    return program.run_decompositions(decompositions()) if decompose else program


def to_onnx(
    model: nn.Module,
    path: str | Path,
    input_size: int | tuple[int, int] | None = None,
    *,
    dynamic_batch: bool = False,
) -> None:
    """Write a model as an ONNX file of standard operators, for images of one size.

    Its input is called `images`, its output `output`, or `output_0`, `output_1`, ... where the model gives several.
    `natten_core.decompositions` says what neighborhood attention becomes.

    Args:
        model: see `to_program`.
        path: the file to write; the weights lie in it too, so that it may not exceed 2 GB.
        input_size: see `to_program`.
        dynamic_batch: whether the file takes any number of images; else it takes one.

    Raises:
        ExportError: as `to_program`; or onnx or onnxscript are not installed.
    """
    for name in ("onnx", "onnxscript"):
        needed(name, "writing ONNX files")
    program = to_program(model, input_size, dynamic_batch=dynamic_batch, decompose=True)
    outputs = len(program.graph_signature.user_outputs)
    try:
        torch.onnx.export(
            program,
            f=Path(path),
            input_names=["images"],
            output_names=["output"] if outputs == 1 else [f"output_{i}" for i in range(outputs)],
            dynamic_shapes=_dynamic(dynamic_batch),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"torch cannot write {type(model).__name__} as ONNX: {first_line(error)}") from error


def check(
    model: nn.Module, path: str | Path, input_size: int | tuple[int, int] | None = None, *, dynamic_batch: bool = False
) -> float:
    """Run an exported file and the model on the same random images, three if the batch is dynamic, else one.

    Args:
        model: the model that the file was made of.
        path: an ONNX file, run by onnxruntime on the CPU, or a program (`.pt2`), run by torch.
        input_size: that of the export.
        dynamic_batch: that of the export.

    Returns:
        The largest difference of an output over its largest value; rounding makes 1e-6 of it in float32.

    Raises:
        ExportError: the outputs are not as many or not of the same shape; or onnxruntime is needed and not installed.
    """
    images = example(model, input_size, 3 if dynamic_batch else 1)
    with torch.no_grad():
        expected = _flat(model(images))
        found = _runner(Path(path))(images)
    shapes = [[list(tensor.shape) for tensor in tensors] for tensors in (found, expected)]
    if shapes[0] != shapes[1]:
        raise ExportError(f"{str(path)!r} gives outputs of shapes {shapes[0]}; the model gives {shapes[1]}")
    return max(
        float((ours.cpu().double() - theirs.cpu().double()).abs().max() / theirs.abs().max().cpu().double())
        for ours, theirs in zip(found, expected, strict=True)
    )


def example(model: nn.Module, input_size: int | tuple[int, int] | None, batch: int) -> Tensor:
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


def _dynamic(batch: bool) -> tuple[dict[int, Any]] | None:
    """torch's description of the axes that vary."""
    return ({0: Dim("batch")},) if batch else None


def _runner(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """What runs a file."""
    if path.suffix == ".pt2":
        program = torch.export.load(path).module()
        return lambda images: _flat(program(images))
    session = needed("onnxruntime", "running ONNX files").InferenceSession(path, providers=["CPUExecutionProvider"])
    [images_] = session.get_inputs()
    return lambda images: [torch.from_numpy(one) for one in session.run(None, {images_.name: images.cpu().numpy()})]


def _flat(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
