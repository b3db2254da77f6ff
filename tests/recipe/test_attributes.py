"""Texts made wrong by one attribute."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.attributes import COLOURS, swapped
from training.photos import Photo, normalised

BOX = ((0.1, 0.1, 0.5, 0.5),)


def photo(*captions: str, phrases: tuple[str, ...] = ()) -> Photo:
    return Photo("set", "set-1", Path("1.jpg"), captions, dict.fromkeys(phrases, BOX), {})


def drawn(text: str, of: Photo, count: int = 50, times: int = 30) -> set[str]:
    return {wrong for seed in range(times) for wrong in swapped(text, of, random.Random(seed), count)}


def test_a_colour_becomes_every_other_colour() -> None:
    wrong = drawn("a red bus", photo("a red bus"))
    # Buses become other vehicles, too: a text may have several attributes, and one at a time is exchanged.
    colours = {text for text in wrong if text.endswith(" bus")}
    assert len(colours) == len(COLOURS) - 1
    assert "an orange bus" in colours
    assert all(text.count("bus") == 1 or "red" in text for text in wrong)


def test_what_is_annotated_in_the_photo_is_never_drawn() -> None:
    of = photo("a red bus", phrases=("a red bus", "The blue bus"))
    assert "a blue bus" not in drawn("a red bus", of)
    assert "a green bus" in drawn("a red bus", of)


def test_things_that_are_said_of_the_photo_are_no_exchange() -> None:
    of = photo("a man and a woman with a dog")
    assert not drawn("a man", of)
    assert "a cat" in drawn("a dog", of)
    assert drawn("a man", photo("a man")) == {"a woman"}


@pytest.mark.parametrize("text", ["a table", "", "Redwood trees", "two bushes"])
def test_no_attribute_no_exchange(text: str) -> None:
    assert not drawn(text, photo(text))


@given(
    words=st.lists(
        st.sampled_from(["a", "red", "Grey", "old", "man", "in", "blue", "hat", "x"]), max_size=8
    ),
    seed=st.integers(0, 99),
    count=st.integers(0, 4),
)
def test_one_word_is_exchanged(words: list[str], seed: int, count: int) -> None:
    text = " ".join(words)
    wrong = swapped(text, photo(text), random.Random(seed), count)
    assert len(wrong) == len(set(wrong)) <= count
    for other in wrong:
        assert normalised(other) != normalised(text)
        differing = [
            (ours, theirs)
            for ours, theirs in zip(text.split(), other.split(), strict=True)
            if ours.lower() != theirs.lower() and {ours.lower(), theirs.lower()} != {"a", "an"}
        ]
        assert len(differing) == 1
