"""Every index against a few lines of NumPy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xattn.index import ExactIndex, Index

DIM = 5

# Small integers: inner products are exact in float32, and ties are frequent.
vectors = st.lists(st.integers(-3, 3), min_size=DIM, max_size=DIM)
additions = st.tuples(st.just("add"), st.dictionaries(st.integers(0, 2**62), vectors, max_size=6))
removals = st.tuples(st.just("remove"), st.lists(st.integers(0, 30), max_size=6))
searches = st.tuples(st.just("search"), st.tuples(vectors, st.integers(1, 12)))


def as_arrays(entries: dict[int, list[int]]) -> tuple[np.ndarray, np.ndarray]:
    ids = np.array(list(entries), np.int64)
    return ids, np.array(list(entries.values()), np.float32).reshape(-1, DIM)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(additions, removals, searches), max_size=12))
def test_an_index_behaves_like_a_dictionary_of_vectors(steps: list[tuple[str, Any]]) -> None:
    index: Index = ExactIndex(DIM)
    held: dict[int, list[int]] = {}
    for action, argument in steps:
        if action == "add":
            new = {i: vector for i, vector in argument.items() if i not in held}
            index.add(*as_arrays(new))
            held.update(new)
        elif action == "remove":
            # Positions among what is held, and ids that are not held at all.
            ids = [sorted(held)[n] if n < len(held) else -n for n in argument]
            assert index.remove(np.array(ids, np.int64)) == len(set(ids) & set(held))
            held = {i: vector for i, vector in held.items() if i not in ids}
        else:
            check_search(index, held, *argument)
        assert len(index) == len(held)
        assert sorted(index.ids.tolist()) == sorted(held)
    check_search(index, held, [1, -2, 3, 0, 1], 12)


def check_search(index: Index, held: dict[int, list[int]], query: list[int], k: int) -> None:
    scores, ids = index.search(np.array([query, query], np.float32), k)
    expected = sorted((float(np.dot(query, vector)) for vector in held.values()), reverse=True)[:k]
    assert scores.shape == ids.shape == (2, min(k, len(held)))
    for row in range(2):
        assert scores[row].tolist() == expected
        assert len(set(ids[row].tolist())) == len(expected)
        assert [float(np.dot(query, held[i])) for i in ids[row].tolist()] == expected


@pytest.mark.parametrize("ids", [[7], [8, 8]])
def test_an_id_is_held_once(ids: list[int]) -> None:
    index = ExactIndex(DIM)
    index.add(np.array([7]), np.ones((1, DIM), np.float32))
    with pytest.raises(ValueError, match="held already"):
        index.add(np.array(ids), np.ones((len(ids), DIM), np.float32))
    assert len(index) == 1


def test_wrong_shapes_and_k_are_refused() -> None:
    index = ExactIndex(DIM)
    with pytest.raises(ValueError, match=r"expected vectors of shape \[N, 5\], got \[2, 4\]"):
        index.add(np.array([1, 2]), np.ones((2, 4), np.float32))
    with pytest.raises((TypeError, ValueError), match="ids"):
        index.add(np.array([1]), np.ones((2, DIM), np.float32))
    with pytest.raises(ValueError, match=r"expected vectors of shape \[N, 5\], got \[1, 6\]"):
        index.search(np.ones((1, 6), np.float32), 1)
    with pytest.raises(ValueError, match="k must be at least 1"):
        index.search(np.ones((1, DIM), np.float32), 0)
