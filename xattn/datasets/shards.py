"""WebDataset: tar files, here or behind any URL that fsspec opens; files of one name in them are a sample.

    train-{00..07}.tar      s3://bucket/train-{0000..0127}.tar      a folder that holds such files

A sample has a picture and captions as a folder would have them: `dog.jpg` with `dog.txt` or `dog.json`.
A shard whose name begins with a split's ("train-00.tar"), or whose folder is called so, belongs to it.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from xattn import images
from xattn.datasets.base import reading
from xattn.datasets.folder import SPLITS, json_captions
from xattn.datasets.unpacked import Packed, unpacked
from xattn.errors import DataError, MissingExtra

SUFFIXES = (".tar", ".tar.gz", ".tgz")


def are_shards(source: str) -> bool:
    """Whether a path, pattern or URL names tar files, or a folder that holds some."""
    return source.endswith(SUFFIXES) or bool(_in_folder(Path(source)))


def unpack_shards(source: str) -> Path:
    """Writes the samples out (see `unpacked`). Raises MissingExtra; DataError names the shard."""
    for package in ("webdataset", "fsspec"):
        if find_spec(package) is None:
            raise MissingExtra(package, "data", f"reading {source}")
    fsspec: Any = import_module("fsspec")
    shards = [str(path) for path in _in_folder(Path(source))] or _expanded(source)
    keys = []
    for shard in shards:
        with reading(shard):
            files, path = fsspec.core.url_to_fs(shard)
            keys.append(f"{shard}:{files.ukey(path)}")
    return unpacked("\n".join(keys), _samples(shards))


def _in_folder(folder: Path) -> list[Path]:
    """None where pictures lie about, too: then a tar file is something else, such as a copy of them."""
    places = [place for place in (folder, *(folder / split for split in SPLITS)) if place.is_dir()]
    files = [file for place in places for file in place.iterdir()]
    if any(file.suffix.lower() in images.EXTENSIONS for file in files):
        return []
    return sorted(file for file in files if file.suffix == ".tar")


def _expanded(source: str) -> Sequence[str]:
    shardlists: Any = import_module("webdataset.shardlists")
    return shardlists.expand_urls(source)


def _samples(shards: Sequence[str]) -> Iterator[Packed]:
    fsspec: Any = import_module("fsspec")
    tars: Any = import_module("webdataset.tariterators")
    for shard in shards:
        split = split_of(shard)
        try:
            with reading(shard), fsspec.open(shard, "rb") as stream:
                files = ({**file, "__url__": shard} for file in tars.tar_file_iterator(stream))
                for sample in tars.group_by_keys(files):
                    packed = _packed(sample, split)
                    if packed is not None:
                        yield packed
        except tarfile.TarError as error:
            raise DataError(f"{shard} cannot be read: {error.args[0]}.") from error


def _packed(sample: dict[str, Any], split: str | None) -> Packed | None:
    """None for a sample without a picture."""
    known = images.EXTENSIONS | images.UNREADABLE_EXTENSIONS
    suffix = next((suffix for suffix in sample if f".{suffix}" in known), None)
    if suffix is None:
        return None
    name = f"{sample['__key__']}.{suffix}"
    captions = sample["txt"].decode("utf-8").splitlines() if "txt" in sample else []
    if "json" in sample:
        with reading(name):
            captions += json_captions(sample["json"].decode("utf-8"))
    return Packed(name, sample[suffix], captions, split)


def split_of(shard: str) -> str | None:
    """
    >>> split_of("s3://bucket/train-0001.tar"), split_of("/data/val/00.tar"), split_of("/data/trains.tar")
    ('train', 'val', None)
    """
    path = PurePosixPath(shard.replace("\\", "/"))
    for part in (path.name, path.parent.name):
        first = re.match(r"[a-z]*", part.lower())
        if first is not None and first[0] in SPLITS:
            return first[0]
    return None
