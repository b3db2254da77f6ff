"""Grey levels of TIFF files that Pillow hands over without regard to what the file declares."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image, TiffImagePlugin

_WHITE_IS_ZERO = 0
_UNSIGNED, _SIGNED = 1, 2
_MAX_SAMPLE_VALUE = 281


class Levels(NamedTuple):
    """Values of pixels that are black and white; white may be the lower one."""

    black: float
    white: float

    def inverted(self) -> Levels:
        return Levels(self.white, self.black)


def declared_levels(picture: Image.Image) -> Levels | None:
    """What a grey TIFF with integers of 9 to 16 bits declares; None for anything else.

    White is the greatest value of BitsPerSample bits (TIFF 6.0, tags 258, 262, 339), or MaxSampleValue
    (tag 281) where that tells that fewer of 16 bits are used. Other maxima are statistics of one picture.
    Of signed integers the least is black.
    """
    if not isinstance(picture, TiffImagePlugin.TiffImageFile) or not picture.mode.startswith("I"):
        return None
    tags = picture.tag_v2
    bits = _first(tags.get(TiffImagePlugin.BITSPERSAMPLE), 1)
    sample_format = _first(tags.get(TiffImagePlugin.SAMPLEFORMAT), _UNSIGNED)
    if not 8 < bits <= 16 or sample_format not in (_UNSIGNED, _SIGNED):
        return None
    if sample_format == _SIGNED:
        levels = Levels(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    else:
        greatest = (1 << bits) - 1
        declared = _first(tags.get(_MAX_SAMPLE_VALUE), greatest)
        used_bits = declared.bit_length()
        fits = declared == (1 << used_bits) - 1 and 8 < used_bits < bits
        levels = Levels(0, declared if fits else greatest)
    return levels.inverted() if white_is_zero(picture) else levels


def white_is_zero(picture: Image.Image) -> bool:
    """Whether a TIFF of more than 8 bits declares so (tag 262); Pillow heeds it up to 8 only."""
    if not isinstance(picture, TiffImagePlugin.TiffImageFile):
        return False
    return picture.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO


def _first(value: object, default: int) -> int:
    """Tags of one value per channel come as tuples; damaged ones as anything."""
    if isinstance(value, tuple) and value:
        value = value[0]
    return value if isinstance(value, int) else default
