"""Awkward files: each is decoded right, or refused with its name and the reason; nothing else happens."""

from __future__ import annotations

import os
import pickle
import struct
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from tests.pngs import claiming, png
from xattn import images
from xattn.errors import ImageError
from xattn.types import Skipped

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


def refusal(path: Path, **options: int) -> str:
    """Why a file is refused; fails if the message does not name the file."""
    with pytest.raises(ImageError) as caught:
        images.load(path, **options)
    assert caught.value.path == path
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    return caught.value.reason


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes, str], Path]:
    def write(data: bytes, name: str = "picture.jpg") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


Write = Callable[..., Path]

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


def turned(orientation: int, size: tuple[int, int] = SIZE) -> tuple[Image.Image, Image.Exif]:
    """What a camera writes: pixels as the sensor saw them, and how to turn them to be upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    inverse = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    ways = {**images._TRANSPOSES, **inverse}  # the others undo themselves
    stored = picture(size)
    return (stored if orientation == 1 else stored.transpose(ways[orientation])), exif


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


# --- refusals -------------------------------------------------------------------------------------------


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
            return images._has_end(file)

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

        monkeypatch.setattr(images, "open", forbidden, raising=False)
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


# --- scan -----------------------------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return paths


def found_in(*paths: Path) -> tuple[list[Path], dict[Path, str]]:
    found = images.scan(paths)
    skipped = {entry.path: entry.reason for entry in found if isinstance(entry, Skipped)}
    return [entry for entry in found if isinstance(entry, Path)], skipped


def test_scan_orders_by_path_and_passes_over_other_files(tmp_path: Path) -> None:
    wanted = touch(
        tmp_path, "B.JPG", "a/x.png", "a/b/c/deep.webp", "z.jpeg", 'an animal\'s "photo".tiff', "мир.gif"
    )
    touch(tmp_path, "notes.txt", "jpg", "Makefile", ".hidden.jpg", ".xattn/shard.png", "a/.git/x.jpg")
    assert found_in(tmp_path) == (sorted(wanted, key=str), {})
    assert images.scan(tmp_path) == images.scan([str(tmp_path)])


def test_scan_finds_each_file_once(tmp_path: Path) -> None:
    first, second = touch(tmp_path, "a/x.png", "b.png")
    assert found_in(tmp_path, tmp_path / "a", first, second, first, tmp_path / "a" / "..") == (
        [first, second],
        {},
    )


def test_scan_of_relative_paths_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = touch(tmp_path, "a/x.png")
    monkeypatch.chdir(tmp_path / "a")
    assert images.scan(".") == images.scan("x.png") == images.scan("../a") == [path]


def test_scan_of_nothing(tmp_path: Path) -> None:
    assert images.scan(tmp_path) == []
    assert images.scan([]) == []


def test_scan_survives_link_loops_and_lists_linked_folders_once(tmp_path: Path) -> None:
    inside, outside = touch(tmp_path, "root/album/x.jpg", "elsewhere/y.jpg")
    root = tmp_path / "root"
    (root / "album" / "up").symlink_to(root)
    (root / "album" / "self").symlink_to(root / "album")
    # These sort before and after the real folder, which gives the path all the same.
    (root / "aaa").symlink_to(root / "album")
    (root / "zzz").symlink_to(root / "album")
    (root / "far").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    assert found_in(root) == ([inside, root / "far" / outside.name], {})


def test_scan_names_pictures_it_cannot_offer(tmp_path: Path) -> None:
    (real,) = touch(tmp_path, "real.jpg")
    touch(tmp_path, "phone.HEIC")
    (tmp_path / "linked.jpg").symlink_to(real)
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    files, skipped = found_in(tmp_path)
    assert files == [tmp_path / "linked.jpg", real]
    assert {path.name: reason for path, reason in skipped.items()} == {
        "phone.HEIC": ".heic files cannot be read; convert it to JPEG or PNG",
        "broken.jpg": "it is a broken link",
        "circle.jpg": "it is a broken link",
        "pipe.jpg": "it is not a regular file",
    }


def test_scan_reports_a_named_file_that_is_no_picture(tmp_path: Path) -> None:
    notes, hidden = touch(tmp_path, "notes.txt", ".hidden/.photo.jpg")
    files, skipped = found_in(notes, hidden, hidden.parent)
    assert files == [hidden]  # named, so it is wanted; the scan of its folder passes over it
    assert "no picture" in skipped[notes]
    assert ".jpg" in skipped[notes]


def test_scan_raises_for_a_missing_path(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for missing in (tmp_path / "no such folder", tmp_path / "dangling"):
        with pytest.raises(ImageError, match=rf"{missing.name}: it does not exist"):
            images.scan([tmp_path, missing])
    with pytest.raises(ImageError, match="null"):
        images.scan("a\0b")


def test_scan_reports_a_folder_it_cannot_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (seen,) = touch(tmp_path, "open/x.jpg")
    touch(tmp_path, "closed/y.jpg")
    closed = tmp_path / "closed"
    if os.geteuid() == 0:  # nothing is forbidden to root
        scandir = os.scandir

        def guarded(path: str) -> Any:
            if Path(path) == closed:
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", guarded)
    else:
        closed.chmod(0)
    try:
        assert found_in(tmp_path) == ([seen], {closed: "the folder cannot be listed: Permission denied"})
    finally:
        closed.chmod(0o700)


def test_scan_skips_names_that_could_not_be_printed(tmp_path: Path) -> None:
    (good,) = touch(tmp_path, "good.jpg")
    try:
        (tmp_path / os.fsdecode(b"bad\xff.jpg")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes only valid names")
    files, skipped = found_in(tmp_path)
    assert files == [good]
    assert skipped == {tmp_path / "bad\ufffd.jpg": "its name is not valid Unicode; rename it"}
