"""Pictures and their files to decode: turned by cameras, transparent, noisy."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xattn.images.pixels import TRANSPOSES

SIZE = (24, 40)  # height, width
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def picture(size: tuple[int, int] = SIZE) -> Image.Image:
    """Left half red; right half green above blue. All eight ways of turning it differ."""
    height, width = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = RED
    pixels[: height // 2, width // 2 :] = GREEN
    pixels[height // 2 :, width // 2 :] = BLUE
    return Image.fromarray(pixels)


def noise(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))


def encoded(picture: Image.Image, format: str, **options: object) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def is_picture(found: Image.Image, expected: Image.Image | None = None, tolerance: int = 0) -> bool:
    expected = expected or picture()
    if found.mode != "RGB" or found.size != expected.size:
        return False
    return bool(np.abs(np.asarray(found, int) - np.asarray(expected, int)).max() <= tolerance)


def transparent(mode: str) -> tuple[Image.Image, dict[str, object]]:
    """Left half opaque black, right half transparent over something that must not show."""
    alpha = Image.new("L", (40, 24), 0)
    alpha.paste(255, (0, 0, 20, 24))
    if mode in ("RGBA", "LA"):
        found = Image.new(mode[:-1], (40, 24), 0)
        found.paste(100 if mode == "LA" else RED, (20, 0, 40, 24))
        found.putalpha(alpha)
        return found, {}
    found = Image.new("L" if mode == "L" else "P", (40, 24), 0)
    found.paste(1, (20, 0, 40, 24))
    if mode != "L":
        found.putpalette([0, 0, 0, *RED])
    return found, {"transparency": bytes([255, 0]) if mode == "P bytes" else 1}


def turned(orientation: int, size: tuple[int, int] = SIZE) -> tuple[Image.Image, Image.Exif]:
    """What a camera writes: pixels as the sensor saw them, and how to turn them to be upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    inverse = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    ways = {**TRANSPOSES, **inverse}  # the others undo themselves
    stored = picture(size)
    return (stored if orientation == 1 else stored.transpose(ways[orientation])), exif


@pytest.fixture(name="write")
def write_fixture(tmp_path: Path) -> Callable[[bytes, str], Path]:
    def write(data: bytes, name: str = "picture.jpg") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


Write = Callable[..., Path]
