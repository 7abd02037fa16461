"""Fashion-MNIST from its IDX files (the format of http://yann.lecun.com/exdb/mnist), into memory at once."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dinat_zoo.fashion_mnist import LABELS, MEAN, SIDE, STD

_UNSIGNED_BYTE = 0x08  # the format's code for the element type
_HINT = "Debian and Ubuntu have the files in the package dataset-fashion-mnist, under /usr/share/datasets/fashion-mnist"


class Split(NamedTuple):
    """Images, uint8 `[N, 28, 28]`, and their classes, int64 `[N]`."""

    images: Tensor
    labels: Tensor

    def take(self, index: Tensor | slice) -> Split:
        """The samples that `index` selects."""
        return Split(self.images[index], self.labels[index])


def read_idx(path: str | Path) -> Tensor:
    """Read one IDX file of unsigned bytes.

    Args:
        path: the file; gzipped if its name ends in `.gz`.

    Returns:
        uint8 tensor of the shape that the file declares.

    Raises:
        ValueError: where the file is no IDX file of unsigned bytes, or has another length than its header says.
    """
    path = Path(path)
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE:
        raise ValueError(f"{path} starts with {content[:4].hex()}; an IDX file of unsigned bytes starts with 000008.")
    start = 4 + 4 * content[3]
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if len(content) != start + math.prod(shape):
        raise ValueError(f"{path} has {len(content)} bytes; its header {shape} asks for {start + math.prod(shape)}.")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(shape)


def load_split(folder: str | Path, train: bool) -> Split:
    """Load the 60,000 training or the 10,000 test images.

    Args:
        folder: where the IDX files are, under the data set's own names, with or without `.gz`.
        train: the training images rather than the test images.

    Raises:
        FileNotFoundError: where a file is missing.
        ValueError: where images and labels do not belong together, or are not Fashion-MNIST's.
    """
    prefix = "train" if train else "t10k"
    images = read_idx(_find(Path(folder), f"{prefix}-images-idx3-ubyte"))
    labels = read_idx(_find(Path(folder), f"{prefix}-labels-idx1-ubyte")).long()
    if images.shape != (len(labels), SIDE, SIDE):
        raise ValueError(
            f"{folder}: images have the shape {list(images.shape)} and labels {list(labels.shape)}; "
            f"expected [N, {SIDE}, {SIDE}] and [N]."
        )
    if len(labels) and int(labels.max()) >= len(LABELS):
        raise ValueError(f"{folder}: a label is {int(labels.max())}; there are {len(LABELS)} classes, from 0.")
    return Split(images, labels)


def scale(images: Tensor) -> Tensor:
    """Map uint8 `[N, 28, 28]` to fp32 `[N, 1, 28, 28]` from 0 to 1."""
    return images.unsqueeze(1).float() / 255


def normalize(images: Tensor) -> Tensor:
    """Standardise images from 0 to 1 by the training images' mean and deviation, as the model expects."""
    return (images - MEAN[0]) / STD[0]


def _find(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"there is no {name} or {name}.gz in {folder}. {_HINT}.")
