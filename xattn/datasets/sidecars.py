"""Files of captions beside pictures, in folders and archives: dog.jpg with dog.txt or dog.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import PurePosixPath

from xattn import images
from xattn.datasets.text import captions_in, decode, require_text

TEXT_SUFFIXES = (".txt", ".caption")
SUFFIXES = (*TEXT_SUFFIXES, ".json")
"""Lower case; files are recognised in any spelling."""


def is_picture(name: str) -> bool:
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in images.EXTENSIONS or suffix in images.UNREADABLE_EXTENSIONS


def is_sidecar(name: str) -> bool:
    """By its ending."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def pictures_of(sidecars: Iterable[str], pictures: Iterable[str]) -> dict[str, list[str]]:
    """Sidecar → the pictures that it belongs to, by their names; none if there is no such picture.

    >>> pictures_of(["a.txt", "b.jpg.TXT", "c.txt"], ["a.JPG", "a.png", "b.jpg", "b.png"])
    {'a.txt': ['a.JPG', 'a.png'], 'b.jpg.TXT': ['b.jpg'], 'c.txt': []}
    """
    by_name: dict[str, list[str]] = {}
    for picture in pictures:
        by_name.setdefault(picture, []).append(picture)
        by_name.setdefault(_without_suffix(picture), []).append(picture)
    return {sidecar: by_name.get(_without_suffix(sidecar), []) for sidecar in sidecars}


def sidecar_captions(name: str, content: bytes) -> list[str]:
    """Each line of a text is a caption; JSON holds a caption, a list of them, or an object with `captions`
    or `caption`. Raises ValueError or TypeError if it is none of these, or the text is not UTF-8.
    """
    text = decode(content)
    if PurePosixPath(name).suffix.lower() in TEXT_SUFFIXES:
        return require_text(text).splitlines()
    value = json.loads(text)
    if isinstance(value, dict):
        value = value["captions"] if value.get("captions") is not None else value.get("caption")
    return captions_in(value)


def _without_suffix(name: str) -> str:
    return name[: len(name) - len(PurePosixPath(name).suffix)]
