"""Small pictures that look different from each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def photo(path: Path, seed: int, size: tuple[int, int] = (70, 50)) -> Path:
    """Smooth random shades: each seed looks different, at any size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shades = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(shades).resize(size, Image.Resampling.BICUBIC).save(path)
    return path
