"""Which pictures a scan of files and folders finds, and what it reports as passed over."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from xattn import images
from xattn.errors import ImageError
from xattn.types import Skipped


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


SYSTEM_FOLDERS = ["@eaDir/x.jpg", "#recycle", "#snapshot", "@Recycle", "$RECYCLE.BIN/S-1-5-21", "RECYCLER",
    "System Volume Information", "lost+found", "__MACOSX", "node_modules/a/b", "Previews.lrdata/0",
    "Photos.photoslibrary/resources/derivatives", ".Trashes", ".thumbnails"]  # fmt: skip


@pytest.mark.parametrize("folder", SYSTEM_FOLDERS)
@pytest.mark.parametrize("parent", ["", "trip/2019/"])
def test_scan_passes_over_what_machines_keep(tmp_path: Path, folder: str, parent: str) -> None:
    (wanted,) = touch(tmp_path, f"{parent}beach.jpg")
    (kept_by_machine,) = touch(tmp_path, f"{parent}{folder}/y.jpg")
    assert found_in(tmp_path) == ([wanted], {})
    assert found_in(kept_by_machine.parent) == ([kept_by_machine], {})


def test_scan_reads_the_originals_of_a_photo_library(tmp_path: Path) -> None:
    (original,) = touch(tmp_path, "Photos.photoslibrary/originals/0/x.jpg")
    assert found_in(tmp_path) == ([original], {})


@pytest.mark.parametrize("marker", [".nomedia", ".noimage", ".NOMEDIA"])
def test_scan_passes_over_a_marked_folder_unless_it_is_named(tmp_path: Path, marker: str) -> None:
    outside, inside, deeper = touch(tmp_path, "a.jpg", "private/b.jpg", "private/deeper/c.jpg")
    touch(tmp_path, f"private/{marker}")
    assert found_in(tmp_path) == ([outside], {inside.parent: images.MARKED_REASON})
    assert found_in(inside.parent) == ([inside, deeper], {})
    assert found_in(tmp_path, inside.parent) == ([outside, inside, deeper], {})
