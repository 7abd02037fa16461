"""Images with labels: a folder of classes, the files of Fashion-MNIST, or a data set that timm knows; as loaders."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import ImageNetInfo, create_dataset, create_loader, infer_imagenet_subset, resolve_data_config
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from dinat_zoo._base import BaseTransformer
from dinat_zoo.fashion_mnist import LABELS
from dinat_zoo.recipes.fashion_mnist.data import load_split
from dinat_zoo.recipes.imagenet.recipe import Recipe

PREFIXES = ("torch/", "hfds/", "hfids/", "tfds/", "wds/")
_TRAIN, _HELD_OUT = ("train", "training"), ("validation", "val", "valid", "eval", "evaluation", "test")


class FashionMNIST(Dataset[tuple[Any, int]]):
    """Images and labels of Fashion-MNIST's IDX files, as timm's loaders take them."""

    def __init__(self, folder: str | Path, train: bool) -> None:
        self.images, self.labels = load_split(folder, train)
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.images[index].numpy())
        return self.transform(image) if self.transform else image, int(self.labels[index])


class Folder(ImageFolder):  # type: ignore[misc]  # torchvision has no types
    """A folder of images with one folder per class; timm's own reader leaves files open.

    Args:
        root: the folder.
        mode: Pillow's mode to convert images to.
    """

    class_to_idx: dict[str, int]
    samples: list[tuple[str, int]]

    def __init__(self, root: Path, mode: str) -> None:
        super().__init__(str(root), loader=partial(_read, mode), allow_empty=True)

    def number(self, indices: Mapping[str, int]) -> None:
        """Number the classes, which at first are the sorted folders, as `indices` does by folder name.

        Raises:
            ValueError: there are folders that it does not have.
        """
        other = [name for name in self.classes if name not in indices]
        if other:
            raise ValueError(
                f"{self.root} has folders that name no class: {', '.join(other[:3])}, {len(other)} in all."
            )
        of = {index: indices[name] for name, index in self.class_to_idx.items()}
        self.class_to_idx = {name: indices[name] for name in self.classes}
        self.samples = self.imgs = [(path, of[index]) for path, index in self.samples]
        self.targets = [index for _, index in self.samples]


def _read(mode: str, path: str) -> Image.Image:
    with Image.open(path) as image:
        converted: Image.Image = image.convert(mode)
        return converted


def open_dataset(
    data: str, train: bool, in_chans: int = 3, root: str | None = None, indices: Mapping[str, int] | None = None
) -> Any:
    """Open one half of a data set.

    Args:
        data: a folder with one folder per class, maybe under `train` and `val`; a folder of Fashion-MNIST's IDX files;
            or a name that timm's `create_dataset` knows, such as "torch/cifar10" or "hfds/OWNER/NAME".
        train: the training images rather than the held-out ones.
        in_chans: 1 for grey images, 3 for colours.
        root: where such a named data set lies.
        indices: a folder's classes by name; by default they are numbered in the order of their names.

    Returns:
        A data set for timm's loaders, or None where there are no held-out images.

    Raises:
        ValueError: there is no such data set.
    """
    mode = "L" if in_chans == 1 else "RGB"
    if data.startswith(PREFIXES):
        split = "train" if train else "validation"
        try:
            return create_dataset(data, root, split=split, is_training=train, input_img_mode=mode)
        except Exception as error:  # of whatever library reads it
            raise ValueError(f"data is {data!r}, which cannot be opened: {error}") from error
    folder = Path(data)
    if not folder.is_dir():
        raise ValueError(f"data is {data!r}; it must be a folder, or a name that begins with {', '.join(PREFIXES)}.")
    prefix = "train" if train else "t10k"
    if any(folder.glob(f"{prefix}-images-idx3-ubyte*")):
        return FashionMNIST(folder, train)
    halves = [folder / name for name in (_TRAIN if train else _HELD_OUT) if (folder / name).is_dir()]
    if not halves and not train and any((folder / name).is_dir() for name in _TRAIN):
        return None
    try:
        dataset = Folder((halves or [folder])[0], mode)
    except OSError as error:  # no folders in it
        raise ValueError(f"data is {data!r}: {error}") from error
    if indices is not None:
        dataset.number(indices)
    if not len(dataset):
        raise ValueError(f"data is {data!r}, which has no images in its folders.")
    return dataset


def classes_of(dataset: Any) -> list[str] | None:
    """The names of a data set's classes in order, where it says them."""
    if isinstance(dataset, FashionMNIST):
        return list(LABELS)
    indices: dict[str, int] = getattr(dataset, "class_to_idx", {})
    return sorted(indices, key=indices.__getitem__) or None


def known_classes(model: BaseTransformer) -> dict[str, int] | None:
    """A model's classes by the names that folders have for them: WordNet's ids for ImageNet, or its labels."""
    names = model.pretrained_cfg.get("label_names") or ()
    if len(names) == model.num_classes:
        return {name: i for i, name in enumerate(names)}
    subset = infer_imagenet_subset(model)
    return None if subset is None else {name: i for i, name in enumerate(ImageNetInfo(subset).label_names())}


def train_loader(
    dataset: Any, model: BaseTransformer, recipe: Recipe, size: tuple[int, int, int], batch_size: int,
    workers: int, device: torch.device, distributed: bool,
) -> Any:  # fmt: skip
    """timm's loader with the recipe's augmentation; what does not fill a batch waits for another epoch."""
    config = resolve_data_config({"input_size": size}, model=model)
    return create_loader(
        dataset, size, batch_size, is_training=True, re_prob=recipe.erase, re_mode="pixel",
        color_jitter=recipe.color_jitter, auto_augment=(recipe.auto_augment or None) if size[0] == 3 else None,
        interpolation="random", mean=config["mean"], std=config["std"], num_workers=workers, distributed=distributed,
        pin_memory=device.type == "cuda", device=device,
        persistent_workers=False,  # they would carry random states over epochs, which a resumed run has not
    )  # fmt: skip


def eval_loader(
    dataset: Any, model: BaseTransformer, batch_size: int, workers: int, device: torch.device,
    distributed: bool = False, size: tuple[int, int, int] | None = None,
) -> Any:  # fmt: skip
    """timm's loader with the model's evaluation transform, in order."""
    config = resolve_data_config({"input_size": size} if size else None, model=model)
    return create_loader(
        dataset, config["input_size"], batch_size, interpolation=config["interpolation"], mean=config["mean"],
        std=config["std"], crop_pct=config["crop_pct"], crop_mode=config["crop_mode"], num_workers=workers,
        distributed=distributed, pin_memory=device.type == "cuda", device=device, persistent_workers=False,
    )  # fmt: skip
