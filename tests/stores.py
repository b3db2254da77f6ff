"""Stores filled with contents that are told apart by their numbers, and checked value by value."""

from pathlib import Path

import numpy as np

from xattn.store import NewContent, NewFile, Store
from xattn.store.schema import FileState, Identity

DIM = 6
MODEL = Identity("0123456789abcdef", "painter", DIM)
GRIDS = [(5, 7), (3, 4), (1, 9), (8, 2)]


def content(number: int) -> NewContent:
    """Content that can be told from every other by all its values."""
    grid = GRIDS[number % len(GRIDS)]
    rng = np.random.default_rng(number)
    regions = rng.standard_normal((grid[0] * grid[1], DIM)).astype(np.float16)
    pooled = rng.standard_normal(DIM).astype(np.float32)
    return NewContent(number.to_bytes(16, "big"), (100 + number, 200 + number), grid, regions, pooled)


def file(number: int, name: str | None = None) -> NewFile:
    return NewFile(Path(f"/photos/{name or number}.jpg"), number.to_bytes(16, "big"), FileState(number, 5))


def fill(store: Store, numbers: range | list[int]) -> None:
    with store.writing():
        store.write([content(n) for n in numbers], [file(n) for n in numbers])


def check(store: Store) -> list[int]:
    """Verifies every stored value; returns the numbers that are stored."""
    ids = store.catalogue.content_ids().tolist()
    contents, grid = store.read(ids)
    assert [c.content_id for c in contents] == ids
    numbers = []
    for i, found in enumerate(contents):
        expected = content(found.size[0] - 100)
        assert (found.size, found.grid) == (expected.size, expected.grid)
        assert grid[i].sizes == (expected.grid,)
        np.testing.assert_array_equal(grid[i].regions[0].numpy(), expected.regions.astype(np.float32))
        np.testing.assert_array_equal(grid.pooled[i].numpy(), expected.pooled)
        assert not grid.regions[i, expected.grid[0] * expected.grid[1] :].any()
        numbers.append(found.size[0] - 100)
    for picture in store.catalogue.pictures_of(ids):
        assert picture.path.stem == str(numbers[ids.index(picture.content_id)])
    return numbers


def shards(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("regions-*"))
