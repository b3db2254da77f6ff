"""Awkward files that are decoded right: formats, modes, transparency, size and orientation."""

from __future__ import annotations

import struct
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.pictures import (  # noqa: F401  fixtures
    RED,
    SIZE,
    WHITE,
    Write,
    encoded,
    is_picture,
    noise,
    picture,
    transparent,
    turned,
    write_fixture,
)
from tests.pngs import png
from xattn import images
from xattn.errors import ImageError

# --- formats and modes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in images.FORMATS if name not in ("JPEG", "AVIF")])
def test_lossless_formats_are_told_by_content(write: Write, name: str) -> None:
    options = {"lossless": True} if name == "WEBP" else {}
    decoded = images.load(write(encoded(picture(), name, **options), "wrong name.jpg"))
    assert is_picture(decoded.picture)
    assert decoded.size == SIZE


@pytest.mark.parametrize("name", [name for name in images.FORMATS if name in ("JPEG", "AVIF")])
def test_lossy_formats(write: Write, name: str) -> None:
    decoded = images.load(write(encoded(picture((48, 80)), name, quality=95, subsampling="4:4:4"), "a.png"))
    assert is_picture(decoded.picture, picture((48, 80)), tolerance=25)


def test_all_formats_are_tested() -> None:
    assert set(images.FORMATS) <= {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"}


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_several(write: Write, format: str) -> None:
    others = [Image.new("RGB", (40, 24), "yellow"), Image.new("RGB", (40, 24), "black")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(picture(), format, save_all=True, append_images=others, **options)
    assert is_picture(images.load(write(data)).picture)


def test_animated_gif_with_transparency(write: Write) -> None:
    first = Image.new("RGBA", (40, 24), (0, 0, 0, 0))
    first.paste(RED, (0, 0, 20, 24))
    data = encoded(first, "GIF", save_all=True, append_images=[Image.new("RGBA", (40, 24), "blue")])
    found = images.load(write(data)).picture
    assert found.getpixel((5, 5)) == RED
    assert found.getpixel((35, 5)) == WHITE


def test_cmyk_jpeg(write: Write) -> None:
    data = encoded(picture((48, 80)).convert("CMYK"), "JPEG", quality=95, subsampling="4:4:4")
    assert b"Adobe" in data  # so its inks are stored inverted
    assert is_picture(images.load(write(data)).picture, picture((48, 80)), tolerance=25)


def test_16_bit_grey_png_is_scaled(write: Write) -> None:
    ramp = np.linspace(0, 65535, 24 * 40).reshape(SIZE).astype(np.uint16)
    found = np.asarray(images.load(write(encoded(Image.fromarray(ramp), "PNG"))).picture, int)
    assert np.abs(found - (ramp / 257)[..., None]).max() <= 1


def test_16_bit_colour_png(write: Write) -> None:
    rows = b"".join(b"\0" + struct.pack(">3H", 0xFFFF, 0x8000, 0) * 3 for _ in range(2))
    header = struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0)
    assert images.load(write(png(header, rows))).picture.getpixel((1, 1)) == (255, 128, 0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([-3.0, 51.0, 255.0], [0, 51, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([0.0, 1e5, 2e5], [0, 128, 255]),
        ([np.nan, np.inf, 1.0], [0, 0, 255]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
    ],
)
def test_float_tiff(write: Write, values: list[float], expected: list[int]) -> None:
    data = encoded(Image.fromarray(np.array([values] * 2, np.float32)), "TIFF")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as numpy's for NaN cast to int
        found = np.asarray(images.load(write(data)).picture)
    assert found[1, :, 0].tolist() == expected
    assert (found == found[..., :1]).all()


@pytest.mark.parametrize(("dtype", "white"), [(">u2", 65535), ("<u2", 65535), ("<i4", 255), ("<i4", 65535)])
def test_wide_integer_tiff(write: Write, dtype: str, white: int) -> None:
    values = np.array([[0, white // 2, white]] * 2, dtype)
    found = np.asarray(images.load(write(encoded(Image.fromarray(values), "TIFF"))).picture)
    assert found[0, :, 1].tolist() == pytest.approx([0, 127, 255], abs=1)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_palette_and_bilevel(write: Write, mode: str) -> None:
    half = Image.new("L", (40, 24), "white")
    half.paste(0, (0, 0, 20, 24))
    assert is_picture(images.load(write(encoded(half.convert(mode), "PNG"))).picture, half.convert("RGB"))


def test_colour_palette(write: Write) -> None:
    assert is_picture(images.load(write(encoded(picture().quantize(3), "PNG"))).picture)


# --- transparency ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P index", "P bytes"])
def test_transparency_is_put_on_white(write: Write, mode: str) -> None:
    source, options = transparent(mode)
    found = images.load(write(encoded(source, "PNG", **options))).picture
    assert found.getpixel((5, 5)) == (0, 0, 0)
    assert found.getpixel((35, 5)) == WHITE


def test_half_transparent_is_mixed_with_white(write: Write) -> None:
    found = images.load(write(encoded(Image.new("RGBA", (7, 5), (255, 0, 0, 128)), "PNG"))).picture
    assert found.getpixel((3, 3)) == pytest.approx((255, 127, 127), abs=1)


# --- size and orientation -------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(write: Write, format: str, orientation: int) -> None:
    stored, exif = turned(orientation)
    options = {"lossless": True} if format == "WEBP" else {}
    decoded = images.load(write(encoded(stored, format, exif=exif, **options)))
    assert is_picture(decoded.picture)
    assert decoded.size == SIZE
    assert decoded.picture.getexif().get(0x0112, 1) == 1  # nobody turns it a second time


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("at_least", [None, 60])
def test_orientation_of_a_jpeg_that_is_decoded_small(
    write: Write, orientation: int, at_least: int | None
) -> None:
    size = (250, 407)
    stored, exif = turned(orientation, size)
    path = write(encoded(stored, "JPEG", exif=exif, quality=95, subsampling="4:4:4"))
    decoded = images.load(path, at_least=at_least)
    assert decoded.size == size
    small = (63, 102) if at_least else size
    assert decoded.picture.size == (small[1], small[0])
    expected = picture(size).resize(decoded.picture.size, Image.Resampling.BOX)
    different = np.abs(np.asarray(decoded.picture, int) - np.asarray(expected, int)).max(-1) > 40
    assert different.mean() < 0.05  # only along the edges


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 120))
def test_both_sides_stay_at_least(tmp_path: Path, height: int, width: int, at_least: int) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(Image.new("RGB", (width, height)), "JPEG"))
    decoded = images.load(path, at_least=at_least)
    assert decoded.size == (height, width)
    assert min(decoded.picture.size) >= min(at_least, height, width)
    assert min(decoded.picture.size) <= 2 * at_least or min(height, width) >= 16 * at_least


def test_damaged_exif_does_not_cost_the_picture(write: Write) -> None:
    for exif in (b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"):
        data = encoded(picture((48, 80)), "JPEG", exif=exif, quality=95, subsampling="4:4:4")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's "Corrupt EXIF data"
            assert is_picture(images.load(write(data)).picture, picture((48, 80)), tolerance=25)


def test_upright_in_memory() -> None:
    stored, exif = turned(6)
    stored.info["exif"] = exif.tobytes()
    before = stored.tobytes()
    assert is_picture(images.upright(stored))
    assert stored.tobytes() == before
    assert stored.getexif()[0x0112] == 6
    assert is_picture(images.upright(picture().convert("RGBA")))
    data = encoded(noise((60, 100)), "PNG")
    with pytest.raises(ImageError, match=r"RGB picture in memory.*converted to RGB: .*truncated"):
        images.upright(Image.open(BytesIO(data[:5000])))
