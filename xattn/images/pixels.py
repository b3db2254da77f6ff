"""Pixels of any mode → upright 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import (
    ExifTags,
    Image,
)

from xattn.errors import ImageError
from xattn.images.tiff import Levels, declared_levels, white_is_zero

TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what makes it upright. From 5 on, the sides change places."""


def upright(picture: Image.Image) -> Image.Image:
    """A picture in memory as `load` would return it: upright, RGB, one frame. `picture` is not changed,
    and returned itself if it is that already.

    Raises ImageError if its pixels cannot be decoded or converted.
    """
    try:
        picture.load()
        return transposed(to_rgb(picture), orientation_of(picture))
    except Exception as error:
        name = getattr(picture, "filename", "") or f"<{picture.mode} picture in memory>"
        raise ImageError(name, f"it cannot be converted to RGB: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """One line; some parsers give no message."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def orientation_of(picture: Image.Image) -> int:
    """EXIF orientation, 1–8; 1 also if EXIF is damaged, which does not make a picture useless."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return orientation if orientation in TRANSPOSES else 1


def transposed(picture: Image.Image, orientation: int) -> Image.Image:
    if orientation == 1:
        return picture
    turned = picture.transpose(TRANSPOSES[orientation])
    turned.info.clear()  # it would say to turn the picture again
    return turned


def to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F" or picture.mode.startswith("I"):
        levels = declared_levels(picture)
        return _grey_from_wide(np.asarray(picture), levels, invert=white_is_zero(picture)).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB") if picture.mode != "RGB" else picture
    rgba = picture.convert("RGBA")
    on_white = Image.new("RGB", picture.size, "white")
    on_white.paste(rgba, mask=rgba.getchannel("A"))
    return on_white


def _grey_from_wide(values: np.ndarray, levels: Levels | None, *, invert: bool) -> Image.Image:
    """Grey of 16 or 32 bits or float → 8 bits. Pillow's own conversion clips at 255, so most goes white.

    levels: black and white where the file declares them. Elsewhere black is 0 and below, and white is 65535
    in 16 bits; no other format says what is white, so it is the first of 1, 255, 65535 and the picture's
    own maximum that no pixel exceeds. invert: in that case, whether 0 is white. NaN and infinity are black.
    """
    if levels is None and values.dtype.itemsize == 2:
        return Image.fromarray((values >> 8).astype(np.uint8))
    values = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if levels is None:
        brightest = float(values.max())
        white = next((limit for limit in (1.0, 255.0, 65535.0) if brightest <= limit), brightest)
        levels = Levels(white, 0) if invert else Levels(0, white)
    shares = (values - levels.black) / (levels.white - levels.black)
    return Image.fromarray((shares.clip(0, 1) * 255 + 0.5).astype(np.uint8))
