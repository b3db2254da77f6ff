"""Grey TIFF files of every depth that scanners and instruments write look as the same picture in 8 bits.

The files are written here tag by tag (TIFF 6.0), so what is expected does not come from the decoder.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xattn import images
from xattn.errors import ImageError

WIDTH, HEIGHT = 32, 8
EIGHT_BIT = np.linspace(0, 255, WIDTH * HEIGHT).round().reshape(HEIGHT, WIDTH)
WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1
UNSIGNED, SIGNED, FLOAT = 1, 2, 3


def grey_tiff(
    shares: np.ndarray,
    bits: int,
    photometric: int,
    sample_format: int,
    order: str,
    used_bits: int | None = None,
) -> bytes:
    """shares: of white, 0–1. used_bits: fewer than `bits`, declared by MaxSampleValue."""
    if photometric == WHITE_IS_ZERO:
        shares = 1 - shares
    values = shares if sample_format == FLOAT else np.rint(shares * (2 ** (used_bits or bits) - 1))
    if sample_format == SIGNED:
        values = values - 2 ** (bits - 1)
    if bits % 8:
        rows = ["".join(f"{int(value):0{bits}b}" for value in row) for row in values]
        data = b"".join(
            int(row, 2).to_bytes(len(row) // 8, "big") for row in rows
        )  # MSB first: FillOrder 1
    else:
        kind = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f"}[sample_format]
        data = values.astype(f"{order}{kind}{bits // 8}").tobytes()
    height, width = shares.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags |= {279: len(data), 339: sample_format} | ({281: 2**used_bits - 1} if used_bits else {})
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    mark = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return mark + struct.pack(f"{order}I", 8 + len(data)) + data + directory


DEPTHS = [
    (8, UNSIGNED),
    (10, UNSIGNED),
    (12, UNSIGNED),
    (14, UNSIGNED),
    (16, UNSIGNED),
    (16, SIGNED),
    (32, FLOAT),
]


def is_refused(bits: int, sample_format: int, photometric: int, order: str) -> bool:
    """Whether Pillow has no decoder, so that the file is named and not read wrongly."""
    if bits == 12:
        return (photometric, order) != (BLACK_IS_ZERO, "<")
    if bits == 16 and photometric == WHITE_IS_ZERO:
        return sample_format == SIGNED or order == ">"
    return bits in (10, 14)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
@pytest.mark.parametrize(("bits", "sample_format"), DEPTHS)
def test_grey_of_any_depth_is_the_picture_in_8_bits_or_refused(
    tmp_path: Path, bits: int, sample_format: int, photometric: int, order: str
) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(grey_tiff(EIGHT_BIT / 255, bits, photometric, sample_format, order))
    if is_refused(bits, sample_format, photometric, order):
        with pytest.raises(ImageError, match="TIFF"):
            images.load(path)
    else:
        assert np.abs(np.asarray(images.load(path).picture, float) - EIGHT_BIT[..., None]).max() <= 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(declared=st.integers(0, 2**32 - 1))
def test_a_maximum_that_is_a_statistic_does_not_brighten(tmp_path: Path, declared: int) -> None:
    """Only 2ⁿ − 1 tells of n bits."""
    path = tmp_path / "x.tif"
    whole = grey_tiff(EIGHT_BIT / 255, 16, BLACK_IS_ZERO, UNSIGNED, "<", 16)
    path.write_bytes(
        whole.replace(struct.pack("<HHII", 281, 4, 1, 65535), struct.pack("<HHII", 281, 4, 1, declared))
    )
    if declared not in {2**bits - 1 for bits in range(9, 16)}:
        assert np.abs(np.asarray(images.load(path).picture, float) - EIGHT_BIT[..., None]).max() <= 1


@pytest.mark.parametrize("used_bits", range(9, 16))
def test_white_is_what_max_sample_value_declares(tmp_path: Path, used_bits: int) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(grey_tiff(EIGHT_BIT / 255, 16, BLACK_IS_ZERO, UNSIGNED, "<", used_bits))
    assert np.abs(np.asarray(images.load(path).picture, float) - EIGHT_BIT[..., None]).max() <= 1
