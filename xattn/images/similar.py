"""Pictures that look the same, by a difference hash of 64 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

HASH_SIDE = 8


NEAR = 3
"""Bits of 64 in which two pictures may differ and still be taken for the same one."""


FLAT = 6
"""Fewer set bits than this, or more than 64 less this: too plain to be told from other plain pictures."""


class NearDuplicate(NamedTuple):
    """Two pictures that look the same, of different splits where there are some; `bits` of their 64-bit
    hashes differ."""

    first: Path
    second: Path
    bits: int


def difference_hash(picture: Image.Image) -> UInt8[np.ndarray, " 8"]:
    """64 bits: whether each of 8×8 places is darker than its right neighbour, on a 9×8 thumbnail (dHash).

    Hardly changed by another size, compression or brightness.
    """
    small = picture.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    values = np.asarray(small, np.int16)
    return np.packbits(values[:, :-1] < values[:, 1:], axis=1)[:, 0]


def near_duplicates(
    paths: Sequence[Path],
    hashes: UInt8[np.ndarray, "N 8"],
    other_paths: Sequence[Path],
    other_hashes: UInt8[np.ndarray, "M 8"],
) -> Iterator[NearDuplicate]:
    """Pairs whose hashes differ in at most NEAR bits; of a collection with itself each pair once. Plain
    pictures are left out: all look alike."""
    bands = _bands(other_hashes)
    for index, hashed in enumerate(hashes):
        if not _is_telling(hashed):
            continue
        candidates = {other for key in _band_keys(hashed) for other in bands.get(key, ())}
        for other in sorted(candidates):
            bits = int(np.unpackbits(hashed ^ other_hashes[other]).sum())
            if bits <= NEAR and not (other_paths is paths and other <= index):
                yield NearDuplicate(paths[index], other_paths[other], bits)


def _bands(hashes: UInt8[np.ndarray, "N 8"]) -> dict[tuple[int, int], list[int]]:
    """Hashes by each of their bands. Of NEAR + 1 bands at least one is the same in two that are near, so
    that only these are compared, and not all with all."""
    found: dict[tuple[int, int], list[int]] = {}
    for index, hashed in enumerate(hashes):
        if _is_telling(hashed):
            for key in _band_keys(hashed):
                found.setdefault(key, []).append(index)
    return found


def _band_keys(hashed: UInt8[np.ndarray, " 8"]) -> list[tuple[int, int]]:
    return list(enumerate(np.ascontiguousarray(hashed).view(f"u{HASH_SIDE // (NEAR + 1)}").tolist()))


def _is_telling(hashed: UInt8[np.ndarray, " 8"]) -> bool:
    return FLAT <= int(np.unpackbits(hashed).sum()) <= 64 - FLAT
