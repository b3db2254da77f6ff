"""Views of a picture: whole, mirrored, or a random crop; and where its boxes land in them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageEnhance

from xattn.training.pictures import RelativeBox
from xattn.types import Size

MIN_AREA = 0.55
JITTER = 0.3


class View(NamedTuple):
    """A crop with corners as fractions of the picture, maybe mirrored, its colours multiplied."""

    x1: float = 0.0
    y1: float = 0.0
    x2: float = 1.0
    y2: float = 1.0
    mirrored: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0

    def apply(self, picture: Image.Image) -> Image.Image:
        """The view of an upright RGB picture."""
        width, height = picture.size
        corners = (self.x1 * width, self.y1 * height, self.x2 * width, self.y2 * height)
        left, top, right, bottom = (round(corner) for corner in corners)
        seen = picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        if self.mirrored:
            seen = seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for kind, factor in (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        ):
            if factor != 1.0:
                seen = kind(seen).enhance(factor)
        return seen

    def place(self, box: RelativeBox) -> RelativeBox:
        """A box of the picture as fractions of the view; may reach beyond it."""
        width, height = self.x2 - self.x1, self.y2 - self.y1
        left, right = (box[0] - self.x1) / width, (box[2] - self.x1) / width
        if self.mirrored:
            left, right = 1 - right, 1 - left
        return left, (box[1] - self.y1) / height, right, (box[3] - self.y1) / height


def views_of(number: int, count: int) -> list[View]:
    """View `number` of `count` pictures: 0 whole, 1 mirrored, above random crops of 0.55–1 of the area.

    The same for every call: the number seeds the crops.
    """
    if number < 2:
        return [View(mirrored=number == 1)] * count
    rng = random.Random(number * 7919)
    return [_crop(rng) for _ in range(count)]


def _crop(rng: random.Random) -> View:
    side = rng.uniform(MIN_AREA, 1) ** 0.5
    aspect = rng.uniform(0.9, 1.1)
    width, height = min(1.0, side * aspect**0.5), min(1.0, side / aspect**0.5)
    x, y = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    mirrored = rng.random() < 0.5
    brightness, contrast, saturation = (rng.uniform(1 - JITTER, 1 + JITTER) for _ in range(3))
    return View(x, y, x + width, y + height, mirrored, brightness, contrast, saturation)


def cell_cover(boxes: Sequence[RelativeBox], grid: Size) -> Float[np.ndarray, "H W"]:
    """Share of each cell that lies in a box, in [0, 1], float32; of several boxes the one that has most."""
    cover = np.zeros(grid, np.float32)
    for x1, y1, x2, y2 in boxes:
        columns = np.diff(np.arange(grid[1] + 1).clip(x1 * grid[1], max(x1, x2) * grid[1]))
        rows = np.diff(np.arange(grid[0] + 1).clip(y1 * grid[0], max(y1, y2) * grid[0]))
        cover = np.maximum(cover, np.outer(rows, columns), dtype=np.float32)
    return cover
