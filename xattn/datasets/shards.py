"""WebDataset: tar files, here or behind any URL that fsspec opens, with captions beside pictures in them.

    train-{00..07}.tar      s3://bucket/train-{0000..0127}.tar      a folder that holds such files

Captions belong to pictures as in a folder (`sidecars`), wherever in the archive they lie: `dog.jpg` with
`dog.txt` or `dog.json`. A shard whose name begins with a split's ("train-00.tar"), or whose folder is
called so, belongs to it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from xattn.datasets import sidecars
from xattn.datasets.archives import Member, Readable, members
from xattn.datasets.base import SkippedEntry, reading, reason_of
from xattn.datasets.splits import SPLITS, split_of
from xattn.datasets.unpacked import UnpackedPicture, Unpacking, file_identity, unpacked
from xattn.errors import DataError, MissingExtra

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
"""Lower case. The compression is recognised by the content."""
_PARTIAL_SUFFIXES = (".part", ".partial", ".crdownload", ".download", ".tmp", ".aria2")


def are_shards(source: str) -> bool:
    """Whether a path, pattern or URL names tar files, or a folder that holds some."""
    return _is_shard(source) or bool(_in_folder(Path(source)))


def unpack_shards(source: str) -> Path:
    """Writes the samples out (see `unpacked`). Raises MissingExtra; DataError if no shard can be opened."""
    shards = [str(path) for path in _in_folder(Path(source))] or _expanded(source)
    keys: dict[str, str] = {}
    absent: list[SkippedEntry] = []
    for shard in shards:
        try:
            keys[shard] = _key(shard)
        except MissingExtra:
            raise
        except (OSError, ValueError, ImportError) as error:
            absent.append(
                SkippedEntry(shard, f"it cannot be read: {reason_of(error)}", split=split_of(shard))
            )
    if not keys:
        raise DataError(f"{absent[0].where} cannot be read: {absent[0].reason}.")
    partial = _partial_in(Path(source))
    identity = [*keys.values(), *map(str, absent), *map(str, partial)]

    def fill(unpacking: Unpacking) -> None:
        list(unpacking.tally.counted(absent))
        for path in partial:
            unpacking.tally.note(str(path), "it is still being downloaded, or its download was broken off")
        unwanted: Counter[str] = Counter()
        for shard in keys:
            with reading(shard), _opened(shard) as file:
                _Shard(shard, unpacking, unwanted).read(file)
        for suffix, number in sorted(unwanted.items()):
            unpacking.tally.note(
                source, f"{number} files ending in {suffix!r} are neither pictures nor captions"
            )

    return unpacked("\n".join(identity), fill)


@dataclass(slots=True)
class _File:
    """One file of a shard. read: the picture written out, its captions, or why they cannot be read"""

    name: str
    digest: bytes
    read: UnpackedPicture | list[str] | SkippedEntry


class _Shard:
    def __init__(self, shard: str, unpacking: Unpacking, unwanted: Counter[str]) -> None:
        self._shard = shard
        self._split = split_of(shard)
        self._unpacking = unpacking
        self._unwanted = unwanted

    def read(self, file: Readable) -> None:
        """Pictures are written out as they come; captions find theirs when all of the shard was read."""
        tally = self._unpacking.tally
        entries = members(file, self._shard, _is_wanted, self._count_unwanted)
        files = [self._file(member) for member in tally.counted(entries)]
        mixed = _mixed_names(files)
        seen: set[str] = set()
        dropped: list[UnpackedPicture] = []
        first: list[_File] = []
        for entry in files:
            is_picture = isinstance(entry.read, UnpackedPicture)
            if isinstance(entry.read, UnpackedPicture) and (entry.name in mixed or entry.name in seen):
                dropped.append(entry.read)
            if entry.name in mixed:
                tally.skipped.append(self._mixed(entry.name, mixed[entry.name], is_picture))
            elif isinstance(entry.read, SkippedEntry):
                tally.skipped.append(entry.read)
            else:
                tally.num_used += 1
                first += [entry] if entry.name not in seen else []
                seen.add(entry.name)
        self._unpacking.drop(dropped)
        self._join(first)

    def _file(self, member: Member) -> _File:
        digest = hashlib.blake2b(member.content, digest_size=16).digest()
        where = f"{self._shard}: {member.name}"
        if sidecars.is_picture(member.name):
            picture = self._unpacking.add(member.content, member.name, origin=where, split=self._split)
            return _File(member.name, digest, picture)
        try:
            return _File(member.name, digest, sidecars.sidecar_captions(member.name, member.content))
        except (ValueError, TypeError, RecursionError) as error:
            return _File(member.name, digest, SkippedEntry(where, reason_of(error), "caption", self._split))

    def _mixed(self, name: str, other: str, is_picture: bool) -> SkippedEntry:
        reason = f"the archive has several files {other} that differ: it is not clear what belongs together"
        where = f"{self._shard}: {name}"
        return SkippedEntry(where, reason, "sample" if is_picture else "caption", self._split)

    def _join(self, files: Sequence[_File]) -> None:
        pictures = {entry.name: entry.read for entry in files if isinstance(entry.read, UnpackedPicture)}
        captions = {entry.name: entry.read for entry in files if isinstance(entry.read, list)}
        for name, described in sidecars.pictures_of(captions, pictures).items():
            for picture in described:
                pictures[picture].captions.extend(captions[name])
            if not described and any(text.strip() for text in captions[name]):
                where = f"{self._shard}: {name}"
                self._unpacking.tally.note(where, "the archive has no picture of that name", self._split)

    def _count_unwanted(self, name: str) -> None:
        path = PurePosixPath(name)
        if not any(
            part.startswith(".") or part == "__MACOSX" for part in path.parts if part not in (".", "..")
        ):
            self._unwanted[path.suffix or path.name] += 1


def _is_wanted(name: str) -> bool:
    path = PurePosixPath(name)
    return not _is_hidden(path) and (sidecars.is_picture(name) or sidecars.is_sidecar(name))


def _is_hidden(path: PurePosixPath) -> bool:
    """macOS adds such files to every archive."""
    return path.name.startswith(".") or "__MACOSX" in path.parts


def _mixed_names(files: Sequence[_File]) -> dict[str, str]:
    """Name → a name that stands for several different files, of all files that may belong to those."""
    digests: dict[str, set[bytes]] = {}
    for entry in files:
        digests.setdefault(entry.name, set()).add(entry.digest)
    stems = {_stem(name): name for name, contents in digests.items() if len(contents) > 1}
    return {name: stems[_stem(name)] for name in digests if _stem(name) in stems}


def _stem(name: str) -> str:
    """What names of files that belong together begin with."""
    path = PurePosixPath(name)
    stem = path.with_suffix("") if path.suffix else path
    return str(stem.with_suffix("") if sidecars.is_picture(stem.name) else stem)


# --- opening --------------------------------------------------------------------------------------------


def _is_shard(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _in_folder(folder: Path) -> list[Path]:
    """None where pictures lie about, too: then a tar file is something else, such as a copy of them."""
    files = _files(folder)
    if any(sidecars.is_picture(file.name) for file in files):
        return []
    return sorted(file for file in files if _is_shard(file.name))


def _files(folder: Path) -> list[Path]:
    places = [place for place in (folder, *(folder / split for split in SPLITS)) if place.is_dir()]
    return [file for place in places for file in place.iterdir() if not file.name.startswith(".")]


def _partial_in(folder: Path) -> list[Path]:
    def is_partial(name: str) -> bool:
        return name.endswith(_PARTIAL_SUFFIXES) and _is_shard(name.rpartition(".")[0])

    return sorted(file for file in _files(folder) if is_partial(file.name.lower()))


def _expanded(source: str) -> Sequence[str]:
    if "{" not in source:
        return [source]
    _require("webdataset", source)
    shardlists: Any = import_module("webdataset.shardlists")
    return shardlists.expand_urls(source)


def _is_url(shard: str) -> bool:
    return "://" in shard or "::" in shard


def _key(shard: str) -> str:
    """Changes when the shard does. Raises OSError or ValueError if it cannot be reached."""
    if not _is_url(shard):
        return file_identity(Path(shard))
    _require("fsspec", shard)
    fsspec: Any = import_module("fsspec")
    files, path = fsspec.core.url_to_fs(shard)
    return f"{shard}:{files.ukey(path)}"


@contextmanager
def _opened(shard: str) -> Iterator[Readable]:
    if _is_url(shard):
        fsspec: Any = import_module("fsspec")
        with fsspec.open(shard, "rb") as remote:
            yield remote
    else:
        with Path(shard).open("rb") as file:
            yield file


def _require(package: str, source: str) -> None:
    if find_spec(package) is None:
        raise MissingExtra(package, "data", f"reading {source}")
