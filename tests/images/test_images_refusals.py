"""Damaged, hostile and other files: each is refused with its name and the reason, or decoded right."""

from __future__ import annotations

import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from tests.pictures import (  # noqa: F401  fixtures
    SIZE,
    Write,
    encoded,
    is_picture,
    noise,
    picture,
    transparent,
    turned,
    write_fixture,
)
from tests.pngs import claiming
from xattn import images
from xattn.errors import ImageError
from xattn.images import decode


def refusal(path: Path, **options: int) -> str:
    """Why a file is refused; fails if the message does not name the file."""
    with pytest.raises(ImageError) as caught:
        images.load(path, **options)
    assert caught.value.path == path
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    return caught.value.reason


def test_900_megapixels_are_refused_before_decoding(write: Write) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own warning would be printed, or raised by some filters
        reason = refusal(write(claiming(30_000, 30_000), "bomb.png"))
    for part in ("900,000,000", "30000 × 30000", "128,000,000", "max_pixels", "--max-pixels"):
        assert part in reason


def test_pixel_limit_is_exact_and_can_be_changed(write: Write) -> None:
    path = write(encoded(picture(), "PNG"))
    assert images.load(path, max_pixels=24 * 40).size == SIZE
    assert "960 pixels (40 × 24)" in refusal(path, max_pixels=24 * 40 - 1)
    with pytest.MonkeyPatch.context() as patch:  # Pillow's own limit, which is process-wide, is not in play
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        with pytest.raises(Image.DecompressionBombError):
            Image.open(path)
        assert images.load(path).size == SIZE


TRUNCATED: dict[str, dict[str, Any]] = {
    "JPEG": {}, "progressive JPEG": {"progressive": True}, "PNG": {}, "WEBP": {}, "GIF": {}, "BMP": {},
    "TIFF": {}, "deflated TIFF": {"compression": "tiff_deflate"}, "AVIF": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in TRUNCATED if kind.split()[-1] in images.FORMATS])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.98])
@pytest.mark.parametrize("at_least", [None, 10])
def test_truncated_file_is_refused(write: Write, kind: str, share: float, at_least: int | None) -> None:
    format = kind.split()[-1]
    data = encoded(noise((60, 100)), format, **TRUNCATED[kind])
    path = write(data)
    assert images.load(path).size == (60, 100)
    path = write(data[: int(len(data) * share)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's "Truncated File Read"
        reason = refusal(path) if at_least is None else refusal(path, at_least=at_least)
    assert format in reason


def test_jpeg_that_lost_its_end_to_zeros_is_refused(write: Write) -> None:
    data = encoded(noise((60, 100)), "JPEG")
    half = len(data) // 2
    assert "end-of-image marker" in refusal(write(data[:half] + bytes(len(data) - half)))


def test_jpeg_with_something_after_its_end(write: Write) -> None:
    """Phones append depth maps and films."""
    data = encoded(picture((48, 80)), "JPEG", quality=95, subsampling="4:4:4")
    for appendix in (bytes(3_000_000), data, b"film"):
        assert is_picture(images.load(write(data + appendix)).picture, picture((48, 80)), tolerance=25)


def test_end_marker_is_found_across_blocks(write: Write) -> None:
    def has_end(data: bytes) -> bool:
        with write(data).open("rb") as file:
            return decode._has_end(file)

    block = 1 << 20
    for before in (0, block - 2, block - 1, block, 2 * block - 1):
        assert has_end(b"\xff" * before + b"\xff\xd9rest")
    assert not has_end(bytes(block - 1) + b"\xff" + bytes(5) + b"\xd9")
    assert has_end(b"\xff\xd9")
    assert not has_end(b"\xff\xd8")


def test_text_named_jpg(write: Write) -> None:
    reason = refusal(write(b"Dear diary, today I took a photo.\n" * 50))
    assert "not a picture" in reason
    assert "JPEG, PNG" in reason


def test_formats_off_the_list_are_refused(write: Write) -> None:
    for format in ("PPM", "TGA", "ICO", "EPS", "PCX"):
        assert "not a picture" in refusal(write(encoded(Image.new("RGB", (16, 16)), format)))


def test_empty_file_folder_missing_and_pipe(write: Write, tmp_path: Path) -> None:
    assert "0 bytes" in refusal(write(b""))
    assert "folder" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "nowhere" / "a.jpg")
    assert "Not a directory" in refusal(write(b"x") / "a.jpg")
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    assert "not a regular file" in refusal(pipe)
    with pytest.raises(ImageError, match="null"):
        images.load(f"{tmp_path}/a\0.jpg")


def test_no_permission(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(encoded(picture(), "PNG"))
    if os.geteuid() == 0:  # nothing is forbidden to root

        def forbidden(*_: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(decode, "open", forbidden, raising=False)
    else:
        path.chmod(0)
    assert refusal(path) == "it cannot be read: Permission denied"


def test_error_survives_pickling_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ImageError(Path("a.jpg"), "it is empty")))
    assert (str(error), error.path, error.reason) == ("a.jpg: it is empty", Path("a.jpg"), "it is empty")


SEEDS = [
    encoded(picture(), "PNG"),
    encoded(picture(), "JPEG"),
    encoded(picture(), "GIF"),
    encoded(picture(), "TIFF"),
    encoded(picture(), "TIFF", compression="tiff_lzw"),
    encoded(picture(), "BMP"),
    encoded(picture(), "WEBP"),
    encoded(picture().convert("CMYK"), "JPEG"),
    encoded(turned(6)[0], "PNG", exif=turned(6)[1]),
    encoded(transparent("P bytes")[0], "PNG", transparency=bytes([255, 0])),
]
SIGNATURES = [
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"RIFF\0\0\0\0WEBPVP8 ",
]


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Random bytes after a signature, or a picture with some bytes changed and maybe its end cut."""
    if draw(st.booleans()):
        return draw(st.sampled_from(SIGNATURES)) + draw(st.binary(max_size=300))
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for place, value in draw(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)))):
        data[int(place * len(data))] = value
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files(), st.sampled_from([None, 1, 8, 1000]))
def test_any_bytes_load_or_raise_image_error(tmp_path: Path, data: bytes, at_least: int | None) -> None:
    path = tmp_path / "any.jpg"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            decoded = images.load(path, at_least=at_least, max_pixels=1_000_000)
        except ImageError:
            return
    assert decoded.picture.mode == "RGB"
    shrunk = max(1, round(decoded.size[1] / decoded.picture.width))
    assert decoded.picture.size == tuple(-(-side // shrunk) for side in reversed(decoded.size))


def test_threads_decode_what_one_decodes(tmp_path: Path) -> None:
    paths, expected = [], []
    for i in range(24):
        path = tmp_path / f"{i}.jpg"
        data = encoded(noise((30 + i, 50)), "JPEG")
        path.write_bytes(data[: len(data) // 2] if i % 3 == 0 else data)
        paths.append(path)

    def outcome(path: Path) -> bytes | str:
        try:
            return images.load(path, at_least=10).picture.tobytes()
        except ImageError as error:
            return str(error)

    expected = [outcome(path) for path in paths]
    filters, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, paths * 4)) == expected * 4
    assert (warnings.filters, Image.MAX_IMAGE_PIXELS) == (filters, limit)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
