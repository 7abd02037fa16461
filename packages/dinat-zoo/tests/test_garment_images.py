"""The preprocessing of the Fashion-MNIST model: the data set's images as they are, photographs made like them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from dinat_zoo.fashion_mnist import as_dataset_image


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float32)


def photograph(
    garment: Image.Image,
    scale: int = 20,
    size: tuple[int, int] = (800, 700),
    at: tuple[int, int] = (90, 40),
    background: tuple[int, int, int] = (253, 253, 253),
) -> Image.Image:
    """The garment dark on a light background, enlarged and anywhere in a larger picture."""
    canvas = Image.new("RGB", size, background)
    large = garment.resize((28 * scale, 28 * scale), Image.Resampling.NEAREST)
    canvas.paste(ImageOps.invert(large).convert("RGB"), at, mask=large.point(lambda value: 255 if value else 0))
    return canvas


def test_data_set_images_are_left_alone(garment: Image.Image) -> None:
    assert np.array_equal(pixels(as_dataset_image(garment)), pixels(garment))
    assert np.array_equal(pixels(as_dataset_image(garment.convert("RGB"))), pixels(garment))


def test_negated_data_set_images_are_negated_back(garment: Image.Image) -> None:
    assert np.array_equal(pixels(as_dataset_image(ImageOps.invert(garment))), pixels(garment))


@pytest.mark.parametrize("background", [(253, 253, 253), (255, 255, 255), (230, 235, 228)])
@pytest.mark.parametrize("at", [(0, 0), (90, 40), (240, 140)])
def test_photograph_on_white(garment: Image.Image, at: tuple[int, int], background: tuple[int, int, int]) -> None:
    """Trimmed, scaled by its longest edge and centred, wherever it lies in the picture."""
    result = pixels(as_dataset_image(photograph(garment, at=at, background=background)))
    assert result.shape == (28, 28)
    # The stretch that makes the background black also darkens what is on a grey one.
    level = 0.299 * background[0] + 0.587 * background[1] + 0.114 * background[2]
    source = pixels(garment)
    expected = np.where(source > 0, 255 * (1 - (255 - source) / level), 0)
    inner = np.abs(result - expected)[:, [9, 10, 11, 16, 17, 18, 0, 1, 26, 27]]  # off the edges, which are resampled
    assert inner.max() <= 12
    assert np.abs(result - expected).mean() <= 6


def test_enlarged_data_set_image_on_black(garment: Image.Image) -> None:
    canvas = Image.new("L", (600, 640))
    canvas.paste(garment.resize((280, 280), Image.Resampling.NEAREST), (200, 10))
    assert np.abs(pixels(as_dataset_image(canvas)) - pixels(garment)).mean() <= 6


def test_wide_garments_are_centred_vertically() -> None:
    photo = Image.new("RGB", (400, 300), "white")
    photo.paste((40, 40, 90), (20, 200, 300, 270))  # 280 x 70
    result = pixels(as_dataset_image(photo))
    rows = np.flatnonzero(result.max(axis=1) > 100)
    assert (rows[0], rows[-1]) == (10, 16)
    assert (result[13] > 180).all()


def test_jpeg_noise_does_not_spoil_the_trimming(garment: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    clean = photograph(garment)
    clean.save(path, quality=85)
    with Image.open(path) as noisy:
        assert np.abs(pixels(as_dataset_image(noisy)) - pixels(as_dataset_image(clean))).max() <= 16


def test_sensor_noise_does_not_spoil_the_trimming(garment: Image.Image) -> None:
    clean = photograph(garment, scale=30, size=(1200, 1000))
    noise = np.random.default_rng(0).normal(0, 5, (1000, 1200, 3))
    noisy = Image.fromarray((np.asarray(clean) + noise).clip(0, 255).astype(np.uint8))
    assert np.abs(pixels(as_dataset_image(noisy)) - pixels(as_dataset_image(clean))).max() <= 16


def test_transparency_counts_as_white(garment: Image.Image) -> None:
    opaque = photograph(garment, background=(255, 255, 255))
    cut_out = opaque.convert("RGBA")
    cut_out.putalpha(opaque.convert("L").point(lambda value: 0 if value == 255 else 255))
    assert np.array_equal(pixels(as_dataset_image(cut_out)), pixels(as_dataset_image(opaque)))
    palette = opaque.convert("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert np.abs(pixels(as_dataset_image(palette)) - pixels(as_dataset_image(opaque))).mean() <= 3


def test_orientation_in_the_metadata_is_applied(garment: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    upright = photograph(garment)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    with Image.open(path) as turned:
        assert np.array_equal(pixels(as_dataset_image(turned)), pixels(as_dataset_image(upright)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_any_mode(garment: Image.Image, mode: str) -> None:
    result = as_dataset_image(photograph(garment).convert(mode))
    assert (result.mode, result.size) == ("L", (28, 28))
    assert pixels(result).max() > 60


def test_sixteen_bits(garment: Image.Image) -> None:
    deep = Image.fromarray(pixels(photograph(garment).convert("L")).astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    expected = pixels(as_dataset_image(photograph(garment).convert("L")))
    assert np.abs(pixels(as_dataset_image(deep)) - expected).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (500, 2)])
@pytest.mark.parametrize("colour", ["white", "black", "red"])
def test_nothing_but_background(size: tuple[int, int], colour: str) -> None:
    assert not pixels(as_dataset_image(Image.new("RGB", size, colour))).any()
