"""Random changes of whole batches at once, in the training process: at 28x28 pixels workers would only cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Flips, shifts, small affine maps and random erasing (Zhong et al., https://arxiv.org/abs/1708.04896).

    Attributes:
        shift: largest shift in pixels, along both axes; what comes in from outside is black.
        affine: probability of a rotation and scaling on top of that.
        rotation: largest angle of it, in degrees.
        zoom: largest relative change of size.
        erase: probability that a rectangle is replaced by noise.
        erase_area: smallest and largest area of that rectangle, in units of the image; its sides' ratio is log-uniform
            from 0.3 to 1 / 0.3, and it is cut off where it would be longer than the image.
    """

    shift: int = 2
    affine: float = 0.5
    rotation: float = 10.0
    zoom: float = 0.15
    erase: float = 0.25
    erase_area: tuple[float, float] = (0.02, 0.3)

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Augment every image on its own.

        Args:
            images: fp32 `[B, C, H, W]`, from 0 to 1.
            generator: source of all randomness, on the images' device.

        Returns:
            New tensor of the same shape.
        """
        return self._erase(self._move(images, generator), generator)

    def _move(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        batch, _, height, width = images.shape
        uniform = _Uniform(batch, images.device, generator)
        mirror = 1 - 2 * (uniform() < 0.5).float()
        shift_x, shift_y = ((uniform() * (2 * self.shift + 1)).floor() - self.shift for _ in range(2))
        chosen = (uniform() < self.affine).float()
        angle = chosen * (2 * uniform() - 1) * math.radians(self.rotation)
        size = 1 + chosen * (2 * uniform() - 1) * self.zoom
        rows = [
            [mirror * size * angle.cos(), -size * angle.sin(), 2 * shift_x / width],
            [mirror * size * angle.sin(), size * angle.cos(), 2 * shift_y / height],
        ]
        maps = torch.stack([torch.stack(row, 1) for row in rows], 1)
        grid = F.affine_grid(maps, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)

    def _erase(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.erase == 0:
            return images
        batch, _, height, width = images.shape
        uniform = _Uniform(batch, images.device, generator)
        smallest, largest = self.erase_area
        area = height * width * (smallest + uniform() * (largest - smallest))
        ratio = torch.exp((2 * uniform() - 1) * math.log(1 / 0.3))
        rows = _interval((area * ratio).sqrt(), height, uniform)
        columns = _interval((area / ratio).sqrt(), width, uniform)
        chosen = (uniform() < self.erase)[:, None, None]
        mask = (rows[:, :, None] & columns[:, None, :] & chosen).unsqueeze(1)
        noise = torch.rand(images.shape, generator=generator, device=images.device)
        return torch.where(mask, noise, images)


@dataclass(frozen=True)
class _Uniform:
    batch: int
    device: torch.device
    generator: torch.Generator | None

    def __call__(self) -> Tensor:
        return torch.rand(self.batch, generator=self.generator, device=self.device)


def _interval(length: Tensor, side: int, uniform: _Uniform) -> Tensor:
    """Bool `[B, side]`: the pixels whose centres lie in an interval of that length at a random place."""
    length = length.clamp(1, side)
    start = uniform() * (side - length)
    centres = torch.arange(side, device=length.device) + 0.5
    return (centres >= start[:, None]) & (centres < (start + length)[:, None])
