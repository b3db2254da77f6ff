"""Captions made wrong by one word, and that they are drawn as nobody's."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_training import (
    SMOKE,
    Dataset,
    XAttnModel,
    cache_fixture,
    data_fixture,
    dataset_fixture,
    model_fixture,
    tiny_nets_fixture,
)
from training import swaps
from training.batches import drawn_captions
from training.swaps import common_nouns, head_nouns, others, with_wrong_captions, wrong_captions
from xattn.training.default_towers import towers_of

__all__ = ["cache_fixture", "data_fixture", "dataset_fixture", "model_fixture", "tiny_nets_fixture"]

INSTEAD = {"dog": ["horse", "owl"], "couch": ["bed"]}


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def nouns_of(caption: str) -> list[str]:
    return [caption[start:end] for start, end in head_nouns(caption)]


def test_the_head_of_a_noun_phrase_is_its_last_word() -> None:
    assert nouns_of("A small dog on the old red couch.") == ["dog", "couch"]
    assert nouns_of("a dog] on [a couch") == ["dog", "couch"]
    assert nouns_of("") == []


def test_one_word_is_another_and_the_article_follows() -> None:
    found = wrong_captions(["A dog on a couch"], INSTEAD, 50, random.Random(0))
    assert set(found["A dog on a couch"]) == {"A horse on a couch", "An owl on a couch", "A dog on a bed"}


def test_words_that_exclude_each_other() -> None:
    found = wrong_captions(["a big red bus"], {}, 200, random.Random(0))["a big red bus"]
    sizes = {text.split()[1] for text in found if text.endswith("red bus")}
    colors = {text.split()[2] for text in found if text.startswith("a big")}
    assert sizes == {"small", "tiny"}  # "huge" and "large" may be true of what is big
    assert "blue" in colors
    assert len(colors) > 8


def test_what_another_caption_says_is_not_put_in() -> None:
    captions = ["a dog on a couch", "A horse and a brown owl"]
    found = wrong_captions(captions, INSTEAD, 50, random.Random(0))
    assert found[captions[0]] == ("a dog on a bed",)


def test_a_caption_without_such_words_has_no_wrong_version() -> None:
    assert wrong_captions(["so it goes"], INSTEAD, 3, random.Random(0)) == {"so it goes": ()}


def test_nouns_that_many_captions_name() -> None:
    captions = ["a dog and a Cat"] * swaps.MIN_COUNT + ["a cat and a bus"] * (swaps.MIN_COUNT - 1)
    assert common_nouns(captions) == ["cat", "dog"]


def test_others_are_near_but_not_the_same_and_of_the_same_number() -> None:
    nouns = ["dog", "puppy", "cat", "dogs", "idea"]
    angles = torch.tensor([0.0, 0.3, 1.2, 0.1, 3.0])
    sentences = torch.stack([angles.cos(), angles.sin()], 1)
    found = others(nouns, sentences)
    assert found["dog"] == ["cat", "idea"]  # nearest first
    assert found["dogs"] == []


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["a", "an", "the", "dog", "couch", "red", "big", "two"])).map(" ".join)
)
def test_any_caption(caption: str) -> None:
    wrong = wrong_captions([caption], INSTEAD, 4, random.Random(0))[caption]
    for text in wrong:
        before, after = words(caption), words(text)
        assert len(before) == len(after)
        changed = [(b, a) for b, a in zip(before, after, strict=True) if b != a and {b, a} != {"a", "an"}]
        assert len(changed) == 1


def test_wrong_captions_are_drawn_as_nobodys(dataset: Dataset, model: XAttnModel) -> None:
    wrong = with_wrong_captions(dataset, towers_of(model)[1], seed=0)
    # "red on grey": another colour, which the picture's other caption does not name.
    assert all(len(picture.wrong) == 2 for picture in wrong.pictures)
    rows = {text: row for row, text in enumerate(wrong.texts)}
    pictures = wrong.pictures[:3]
    texts, owners = drawn_captions(pictures, rows, replace(SMOKE, captions=1, swaps=2), random.Random(0))
    assert owners.tolist()[:3] == [0, 1, 2]
    assert set(owners.tolist()[3:]) == {-1}
    names = {row: text for text, row in rows.items()}
    drawn = [names[row] for row in texts.tolist()]
    for picture, caption in zip(pictures, drawn[:3], strict=True):
        assert caption in picture.captions
    allowed = {t for p, c in zip(pictures, drawn[:3], strict=True) for t in p.wrong[c]}
    assert set(drawn[3:]) <= allowed
    assert allowed


def test_the_same_seed_gives_the_same_wrong_captions(dataset: Dataset, model: XAttnModel) -> None:
    text = towers_of(model)[1]
    assert with_wrong_captions(dataset, text, seed=3) == with_wrong_captions(dataset, text, seed=3)
