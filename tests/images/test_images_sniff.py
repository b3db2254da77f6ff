"""What a file is by its content, whatever it is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pictures import Write, encoded, picture, write_fixture  # noqa: F401  fixture
from xattn import images
from xattn.errors import ImageError

READABLE = [name for name in images.FORMATS if name != "HEIF"]
FOREIGN_NAMES = [
    "x.jpg_large",
    "x.php",
    "x.jpg~orig",
    "x.jpg.download",
    "x.JPEG ",
    "x.png?size=large",
    "x.heic",
    "x.dng",
]
CONTENT_OF_NO_PICTURE = {
    "text": b"notes of a walk\n" * 9,
    "text that begins as BMP does": b"BMW, Mercedes and others, a list of cars that were seen\n" * 3,
    "PDF": b"%PDF-1.4\n",
    "nothing": b"",
    "one byte": b"\xff",
}
KINDS = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "camera raw (CR3)": b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom",
    "camera raw (CR2)": b"II*\0\x10\0\0\0CR\x02\0",
    "a video (MP4 or MOV)": b"\0\0\0\x18ftypisom\0\0\0\0isommp41",
    "JPEG XL": b"\xff\x0a\0\0",
    "a PDF document": b"%PDF-1.4\n",
    "a Photoshop document": b"8BPS\0\x01",
}  # fmt: skip


@pytest.mark.parametrize("format", READABLE)
@pytest.mark.parametrize("name", [*FOREIGN_NAMES, "x"])
def test_a_picture_is_found_by_its_content(write: Write, format: str, name: str) -> None:
    path = write(encoded(picture(), format), name)
    found = images.scan(path.parent)
    if format == "TIFF" and "." in name:  # camera raw begins so, too
        assert path not in found
    else:
        assert found == [path]
        assert images.load(path).size == (24, 40)


@pytest.mark.parametrize("content", CONTENT_OF_NO_PICTURE.values(), ids=CONTENT_OF_NO_PICTURE)
@pytest.mark.parametrize("name", ["notes", "x.txt", "x.pdf", "x.jpg_large"])
def test_what_is_no_picture_is_passed_over_in_silence(write: Write, content: bytes, name: str) -> None:
    assert images.scan(write(content, name).parent) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_cannot_be_read_is_named(write: Write, kind: str) -> None:
    path = write(KINDS[kind] + bytes(4000))
    with pytest.raises(ImageError) as caught:
        images.load(path)
    assert caught.value.reason == f"it is {kind}, which cannot be read; convert it to JPEG or PNG"


def test_compatible_brands_tell_avif_from_heic(write: Write) -> None:
    """Both may have the major brand `mif1`."""
    heic = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"
    with pytest.raises(ImageError, match="HEIC"):
        images.load(write(heic))
    with pytest.raises(ImageError, match="AVIF"):
        images.load(write(heic.replace(b"heic", b"avif")))


def test_a_broken_link_without_extension_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert images.scan(tmp_path) == []
