"""Fashion-MNIST's classes, statistics, and the way from a product photograph to one of its 28x28 images.

The data set's authors (Xiao, Rasul and Vollgraf, https://arxiv.org/abs/1708.07747, section 2) started from photographs
on a nearly white background: they trimmed edges whose colour is within 5% of the corners', scaled the longest edge to
28 pixels, centred the result on a square, negated it and kept its luminance. `as_dataset_image` does the same to any
image, and leaves images that are in the data set's form as they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

# In the order of the label files (Table 2 of the paper).
LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# Of the 60,000 training images, as fractions of the largest intensity.
MEAN = (0.2860,)
STD = (0.3530,)

SIDE = 28
_TOLERANCE = 0.05 * 255  # what still counts as background, per channel


def as_dataset_image(image: Image.Image) -> Image.Image:
    """Bring a picture of one garment into the form of the data set.

    1. The orientation in the file's metadata is applied, and transparent parts become white.
    2. The background's colour is the median of the four corners (patches of 1/28 of each side). Where it is light, as
       in a product photograph, the luminance is negated; a dark one, as in the data set, is kept.
    3. Luminance is stretched so that the background becomes 0.
    4. Edges within 5% of the background's colour are trimmed, the longest edge is scaled to 28 pixels, and the result
       is centred on black.

    An image of 28x28 pixels counts as framed already: of the above only the negation is done, so the data set's own
    images come back unchanged. A background that is not plain is not removed; the whole picture is then scaled.

    Args:
        image: any mode, any size.

    Returns:
        Grey on black, mode "L", 28x28 pixels.
    """
    image = _flatten(ImageOps.exif_transpose(image))
    # Averaged down, a large photograph's noise stays within the tolerance, and its edges are still found to 1/10 pixel.
    image = image.reduce(max(1, max(image.size) // (10 * SIDE)))
    colours = np.asarray(image, dtype=np.float32)  # [height, width, 3]
    background = np.median(_corners(colours), axis=0)
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    level = float(np.asarray(Image.new("RGB", (1, 1), tuple(int(c) for c in background)).convert("L"))[0, 0])
    light = level > 127
    if image.size == (SIDE, SIDE):
        return Image.fromarray((255 - grey if light else grey).astype(np.uint8))

    contrast = (level - grey) / level if light else (grey - level) / (255 - level)
    garment = Image.fromarray((contrast.clip(0, 1) * 255).round().astype(np.uint8))
    box = _bounding_box(np.abs(colours - background).max(axis=2) > _TOLERANCE)
    return _centre(garment.crop(box) if box else garment)


def _flatten(image: Image.Image) -> Image.Image:
    """Convert to RGB, transparency over white."""
    if image.mode.startswith("I;16"):  # Pillow's own conversion cuts these off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _corners(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """The pixels of the four corner patches, `[pixels, 3]`."""
    height, width = (max(1, side // SIDE) for side in colours.shape[:2])
    rows = np.concatenate([colours[:height], colours[-height:]])
    corners: NDArray[np.float32] = np.concatenate([rows[:, :width], rows[:, -width:]], axis=1).reshape(-1, 3)
    return corners


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of what is set, or None where nothing is."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _centre(garment: Image.Image) -> Image.Image:
    """Scale the longest edge to 28 pixels, and put the result in the middle of a black square."""
    scale = SIDE / max(garment.size)
    width, height = (max(1, round(side * scale)) for side in garment.size)
    canvas = Image.new("L", (SIDE, SIDE))
    scaled = garment.resize((width, height), Image.Resampling.LANCZOS)
    canvas.paste(scaled, ((SIDE - width) // 2, (SIDE - height) // 2))
    return canvas
