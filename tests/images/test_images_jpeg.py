"""A JPEG that was cut is refused, whatever follows the cut; a whole one that looks so is not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from tests.pictures import Write, encoded, noise, write_fixture  # noqa: F401  fixture
from xattn import images
from xattn.errors import ImageError

END = b"\xff\xd9"
GREY = (128, 128, 128)

encodings = st.fixed_dictionaries(
    {"quality": st.sampled_from([30, 75, 95]), "subsampling": st.sampled_from(["4:4:4", "4:2:2", "4:2:0"])},
    optional={"optimize": st.just(True), "restart_marker_rows": st.integers(1, 3)},
)
modes = st.sampled_from(["RGB", "L"])
shrunk = st.sampled_from([None, 30, 100])


def sky(mode: str, height: int = 240) -> Image.Image:
    rng = random.Random(5)
    painted = Image.new("RGB", (320, height), (90, 140, 220))
    draw = ImageDraw.Draw(painted)
    for _ in range(300):
        x, y = rng.randrange(320), rng.randrange(height)
        draw.ellipse((x, y, x + 30, y + 20), fill=tuple(rng.randrange(256) for _ in range(3)))
    return painted.convert(mode)


def write_bytes(folder: Path, data: bytes) -> Path:
    path = folder / "x.jpg"
    path.write_bytes(data)
    return path


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    modes, encodings, st.floats(0.3, 0.8), st.sampled_from([END, encoded(noise((40, 40)), "JPEG")]), shrunk
)
def test_a_cut_jpeg_is_refused_whatever_follows(
    tmp_path: Path,
    mode: str,
    options: dict[str, object],
    share: float,
    appendix: bytes,
    at_least: int | None,
) -> None:
    data = encoded(sky(mode), "JPEG", **options)
    header = data.index(b"\xff\xda") + 20
    path = write_bytes(tmp_path, data[: header + int((len(data) - header) * share)] + appendix)
    with pytest.raises(ImageError, match="JPEG data"):
        images.load(path, at_least=at_least)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    modes,
    encodings,
    st.integers(0, 240),
    st.integers(1, 320),
    st.sampled_from([b"", END, bytes(99)]),
    shrunk,
)
def test_a_whole_jpeg_that_is_grey_below_is_read(
    tmp_path: Path,
    mode: str,
    options: dict[str, object],
    fog: int,
    width: int,
    appendix: bytes,
    at_least: int | None,
) -> None:
    painted = sky("RGB").crop((0, 0, width, 240))
    ImageDraw.Draw(painted).rectangle((0, fog, 320, 240), fill=GREY)
    path = write_bytes(tmp_path, encoded(painted.convert(mode), "JPEG", **options) + appendix)
    assert images.load(path, at_least=at_least).size == (240, width)


def test_a_whole_grey_progressive_jpeg_is_read(write: Write) -> None:
    assert images.load(
        write(encoded(Image.new("RGB", (640, 480), GREY), "JPEG", progressive=True))
    ).size == (480, 640)
