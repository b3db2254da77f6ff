"""Tar files as people make them: names, order, compression, damage; and the cache they go to."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import json
import lzma
import os
import random
import shutil
import signal
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.datasets.photos import photo
from xattn.cli import app
from xattn.datasets import Dataset, read_dataset, splits_of
from xattn.datasets.check import check_dataset
from xattn.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XATTN_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("pictures")
    return [photo(folder / f"{number}.png", number).read_bytes() for number in range(4)]


def tar(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def read(path: Path, content: bytes) -> Dataset:
    path.write_bytes(content)
    return read_dataset(path)


def captions(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    return {record.origin.rpartition(": ")[2]: record.captions for record in dataset.records}


# --- names and order ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "sidecar"),
    [
        ("2021.07.04-12.30.jpg", "2021.07.04-12.30.txt"),
        ("img.v2.jpg", "img.v2.json"),
        ("Mr. Smith.jpg", "Mr. Smith.txt"),
        ("x.JPG", "x.TXT"),
        ("x.jpg", "x.jpg.txt"),
        ("p.q/r.s/x.jpg", "p.q/r.s/x.txt"),
        ("./x.jpg", "./x.txt"),
        ("x" * 200 + ".jpg", "x" * 200 + ".txt"),
        ("日本.jpg", "日本.txt"),
    ],
)
def test_names(tmp_path: Path, pictures: list[bytes], picture: str, sidecar: str) -> None:
    text = b'"one"' if sidecar.endswith("json") else b"one"
    other = ("2021.08.jpg", pictures[1]), ("2021.txt", b"of no picture")
    dataset = read(tmp_path / "d.tar", tar((picture, pictures[0]), *other, (sidecar, text)))
    assert captions(dataset) == {picture: ("one",), "2021.08.jpg": ()}
    assert ["2021.txt" in entry.where for entry in dataset.skipped] == [True]


def test_what_lies_apart_and_what_is_no_sample(tmp_path: Path, pictures: list[bytes]) -> None:
    members = [(f"{n}.png", pictures[n]) for n in range(3)] + [(f"{n}.txt", b"%d" % n) for n in (2, 0, 1)]
    members += [("._0.png", b"x"), (".DS_Store", b"x"), ("__MACOSX/._0.txt", b"x")]
    members += [("0.cls", b"7"), ("1.cls", b"7"), ("Makefile", b"7")]
    dataset = read(tmp_path / "d.tar", tar(*members))
    assert captions(dataset) == {f"{n}.png": (str(n),) for n in range(3)}
    assert [entry.reason for entry in dataset.skipped] == [
        "2 files ending in '.cls' are neither pictures nor captions",
        "1 files ending in 'Makefile' are neither pictures nor captions",
    ]


def test_files_of_one_name(tmp_path: Path, pictures: list[bytes]) -> None:
    first = ("a.png", pictures[0]), ("a.txt", b"one")
    again = ("a.png", pictures[1]), ("a.txt", b"two")
    fine = ("b.png", pictures[2]), ("b.txt", b"three")
    assert captions(read(tmp_path / "same.tar", tar(*first, *fine, *first))) == {
        "a.png": ("one",),
        "b.png": ("three",),
    }
    dataset = read(tmp_path / "mixed.tar", tar(*first, *fine, *again))
    assert captions(dataset) == {"b.png": ("three",)}
    assert len(dataset.skipped) == 4
    assert all("a.png" in entry.where or "a.txt" in entry.where for entry in dataset.skipped)


def test_links_are_named(tmp_path: Path, pictures: list[bytes]) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo(f"{kind!r}.png")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    dataset = read(tmp_path / "d.tar", file.getvalue())
    assert not dataset.records
    assert [entry.kind for entry in dataset.skipped] == ["sample"] * 3


# --- shards ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".tar", ".TAR", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
def test_folders_of_shards(tmp_path: Path, pictures: list[bytes], ending: str) -> None:
    pack: dict[str, Callable[[bytes], bytes]] = {
        ".tar.gz": gzip.compress,
        ".tgz": gzip.compress,
        ".tar.bz2": bz2.compress,
        ".tar.xz": lzma.compress,
    }
    for number, split in enumerate(("train", "val")):
        content = tar((f"{number}.png", pictures[number]), (f"{number}.txt", b"one"))
        (tmp_path / f"{split}-00{ending}").write_bytes(pack.get(ending, bytes)(content))
    (tmp_path / f"train-01{ending}.part").write_bytes(b"")
    (tmp_path / "train-00_stats.json").write_text("{}")
    assert splits_of(tmp_path) == ["train", "val"]
    dataset = read_dataset(tmp_path)
    assert [record.captions for record in dataset.records] == [("one",), ("one",)]
    assert ["downloaded" in entry.reason for entry in dataset.skipped] == [True]


def test_what_cannot_be_read_of_shards(tmp_path: Path, pictures: list[bytes]) -> None:
    dataset = read(tmp_path / "d.tar.zst", b"\x28\xb5\x2f\xfd....")
    assert "Zstandard" in dataset.skipped[0].reason
    (tmp_path / "x-00.tar").write_bytes(tar(("0.png", pictures[0])))
    pytest.importorskip("webdataset")
    (entry,) = read_dataset(f"{tmp_path}/x-{{00..01}}.tar").skipped
    assert "x-01.tar" in entry.where


# --- damage ---------------------------------------------------------------------------------------------


def damaged(kind: str, whole: bytes) -> bytes:
    third = whole.index(b"2.png")
    return {
        "checksum": whole[: third + 148] + b"xxxxxxxx" + whole[third + 156 :],
        "zeros for a header": whole[:third] + b"\0" * 100 + whole[third + 100 :],
        "cut in a header": whole[: third + 100],
        "cut behind a header": whole[: third + 512],
        "cut in a file": whole[: third + 600],
        "no closing blocks": whole.rstrip(b"\0") + b"\0" * (-len(whole.rstrip(b"\0")) % 512),
        "HTML": b"<html><body>404</body></html>" + b" " * 1000,
        "empty": b"",
        "cut gzip": gzip.compress(whole)[:-100],
        "no gzip trailer": gzip.compress(whole)[:-6],
        "gzip checksum": gzip.compress(whole)[:-8] + b"\0" * 8,
    }[kind]


DAMAGE = [
    *("checksum", "zeros for a header", "cut in a header", "cut behind a header", "cut in a file"),
    *("no closing blocks", "HTML", "empty", "cut gzip", "no gzip trailer", "gzip checksum"),
]


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_by_every_command(tmp_path: Path, pictures: list[bytes], kind: str) -> None:
    pairs = [((f"{n}.png", pictures[n]), (f"{n}.txt", b"%d" % n)) for n in range(4)]
    (tmp_path / "d.tar").write_bytes(damaged(kind, tar(*(member for pair in pairs for member in pair))))
    for arguments in (["data", "check"], ["evaluate", "--data"]):
        result = CliRunner().invoke(app, [*arguments, str(tmp_path / "d.tar")])
        assert result.exit_code != 0, arguments
        assert "d.tar" in result.output.replace("\n", "")
        assert not isinstance(result.exception, Exception) or isinstance(result.exception, DataError)
    report = check_dataset(tmp_path / "d.tar")
    assert report.num_unaccounted == 0
    if kind in ("checksum", "zeros for a header"):
        assert report.splits[0].num_pictures == 3, "what follows is read"


def test_archives_put_together(tmp_path: Path, pictures: list[bytes]) -> None:
    parts = [tar((f"{n}.png", pictures[n]), (f"{n}.txt", b"%d" % n)) for n in range(3)]
    dataset = read(tmp_path / "d.tar", b"".join(parts))
    assert captions(dataset) == {f"{n}.png": (str(n),) for n in range(3)}
    assert not dataset.skipped


# --- the cache ------------------------------------------------------------------------------------------


def empty(cache: Path) -> None:
    next(cache.rglob("*0.png")).unlink()


def cut(cache: Path) -> None:
    os.truncate(next(cache.rglob("*1.png")), 50)


def without_table(cache: Path) -> None:
    next(cache.rglob("pictures.jsonl")).unlink()


def table_cut(cache: Path) -> None:
    table = next(cache.rglob("pictures.jsonl"))
    os.truncate(table, table.stat().st_size // 2)


def without_manifest(cache: Path) -> None:
    next(cache.rglob("manifest.json")).unlink()


def other_version(cache: Path) -> None:
    manifest = next(cache.rglob("manifest.json"))
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 0}))


def no_json(cache: Path) -> None:
    next(cache.rglob("manifest.json")).write_text("[]")


def nothing_left(cache: Path) -> None:
    (folder,) = (cache / "datasets").iterdir()
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    "change",
    [empty, cut, without_table, table_cut, without_manifest, other_version, no_json, nothing_left],
)
def test_a_cache_that_was_cleaned_in_part(
    tmp_path: Path, cache: Path, pictures: list[bytes], change: Callable[[Path], None]
) -> None:
    whole = tar(*((f"{n}.png", pictures[n]) for n in range(4)), *((f"{n}.txt", b"x") for n in range(4)))
    expected = read(tmp_path / "d.tar", whole)
    change(cache)
    assert read_dataset(tmp_path / "d.tar") == expected
    assert [record.image.read_bytes() for record in expected.records] == pictures
    assert len(list((cache / "datasets").iterdir())) == 1, "something was left"


def test_a_change_that_keeps_size_and_time(tmp_path: Path, pictures: list[bytes]) -> None:
    path = tmp_path / "d.tar"
    assert captions(read(path, tar(("a.png", pictures[0]), ("a.txt", b"one")))) == {"a.png": ("one",)}
    status = path.stat()
    path.write_bytes(tar(("a.png", pictures[0]), ("a.txt", b"two")))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert captions(read_dataset(path)) == {"a.png": ("two",)}


def test_what_a_killed_process_left_is_removed(tmp_path: Path, cache: Path, pictures: list[bytes]) -> None:
    for name, age in (("old", 25), ("new", 1)):
        making = cache / "datasets" / f".0123-{name}"
        making.mkdir(parents=True)
        (making / "0.png").write_bytes(b"")
        os.utime(making, (time.time() - 3600 * age,) * 2)
    read(tmp_path / "d.tar", tar(("a.png", pictures[0])))
    assert [path.name for path in (cache / "datasets").glob(".*")] == [".0123-new"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_processes_that_are_killed_leave_the_cache_whole(
    tmp_path: Path, cache: Path, pictures: list[bytes]
) -> None:
    members = [(f"{number}.{suffix}", pictures[0]) for number in range(150) for suffix in ("png", "jpg")]
    (tmp_path / "d.tar").write_bytes(tar(*members))
    start = time.monotonic()
    read_dataset(tmp_path / "d.tar")
    seconds = time.monotonic() - start
    delays = random.Random(0)
    for _ in range(8):
        shutil.rmtree(cache / "datasets")
        child = os.fork()
        if child == 0:
            read_dataset(tmp_path / "d.tar")
            os._exit(0)
        time.sleep(delays.uniform(0, 1.5 * seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        dataset = read_dataset(tmp_path / "d.tar")
        assert len(dataset.records) == 300
        assert all(record.image.read_bytes() == pictures[0] for record in dataset.records)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_several_processes_at_once(tmp_path: Path, cache: Path, pictures: list[bytes]) -> None:
    (tmp_path / "d.tar").write_bytes(tar(*((f"{number}.png", pictures[0]) for number in range(50))))
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            records = read_dataset(tmp_path / "d.tar").records
            os._exit(0 if all(record.image.read_bytes() == pictures[0] for record in records) else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert len(list((cache / "datasets").iterdir())) == 1


def test_a_full_disk_is_no_fault_of_the_data(
    tmp_path: Path, cache: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d.tar").write_bytes(tar(("a.png", pictures[0]), ("a.txt", b"one")))
    with monkeypatch.context() as patch:

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DataError, match=f"(?s)cache {cache}.*No space left.*XATTN_CACHE"):
            read_dataset(tmp_path / "d.tar")
    assert not list((cache / "datasets").iterdir())
    assert captions(read_dataset(tmp_path / "d.tar")) == {"a.png": ("one",)}


def test_no_home_and_no_cache(
    tmp_path: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_entry(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("XATTN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    with pytest.raises(DataError, match="XATTN_CACHE"):
        read(tmp_path / "d.tar", tar(("a.png", pictures[0])))


def test_a_cache_that_cannot_be_made(
    tmp_path: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XATTN_CACHE", str(tmp_path / "file"))
    (tmp_path / "d.tar").write_bytes(tar(("a.png", pictures[0])))
    with pytest.raises(DataError, match="XATTN_CACHE"):
        read_dataset(tmp_path / "d.tar")
