"""Noun phrases of captions as names of boxes."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from training.batches import Sampler
from training.data import Picture, read_dataset
from training.recipes import default
from training.spoken import SYNONYMS, category_of, named_in_captions

COCO = {"person", "dog", "hot dog", "sports ball", "dining table", "knife", "bus", "wine glass", "bench"}


@pytest.mark.parametrize(
    ("phrase", "category"),
    [
        ("two brown dogs", "dog"),
        ("a hot dog", "hot dog"),
        ("Hot dogs", "hot dog"),
        ("a group of men", "person"),
        ("a bus", "bus"),  # its s is no plural
        ("three buses", "bus"),
        ("benches", "bench"),
        ("sharp knives", "knife"),
        ("the tennis ball", "sports ball"),
        ("a dog house", None),
        ("a person's dog", "dog"),
        ("", None),
        ("42", None),
    ],
)
def test_the_last_words_name_the_category(phrase: str, category: str | None) -> None:
    assert category_of(phrase, COCO) == category


def test_a_category_that_the_photo_lacks_is_not_named() -> None:
    assert category_of("a man", {"dog"}) is None
    assert named_in_captions(["A man and his dog sit at a table", "dog"], {"dog"}) == {"his dog": "dog"}


def test_synonyms_are_words_for_categories_in_the_singular() -> None:
    assert all(word == word.lower() and " " not in word for word in SYNONYMS)
    assert not set(SYNONYMS) & set(SYNONYMS.values()) - {"person"}


def test_a_photo_has_the_boxes_of_what_its_captions_name(tmp_path: Path) -> None:
    record = {
        "id": 7,
        "image": "7.jpg",
        "split": "train",
        "captions": ["A man feeds two brown dogs", "the man's dog is black"],
        "boxes": [
            {"name": "dog", "box": [0, 0, 0.5, 0.5]},
            {"name": "dog", "box": [0.5, 0, 1, 0.5]},
            {"name": "person", "box": [0, 0.5, 1, 1]},
        ],
        "phrases": [{"phrase": "A man", "box": [0.1, 0.5, 0.9, 1]}],
    }
    (tmp_path / "records.jsonl").write_text(json.dumps(record), encoding="utf-8")
    (picture,) = read_dataset(tmp_path, "train").pictures
    assert picture.spoken["two brown dogs"] == ((0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5))
    assert "A man" not in picture.spoken, "an annotated phrase keeps its own box"
    assert picture.places["A man"] == ((0.1, 0.5, 0.9, 1),)
    dataset = read_dataset(tmp_path, "train")
    assert set(picture.spoken) <= set(dataset.texts)


def test_phrases_and_categories_come_before_what_captions_say() -> None:
    box = ((0.0, 0.0, 1.0, 1.0),)
    phrases = {f"phrase {i}": box for i in range(5)}
    categories = {f"category {i}": box for i in range(6)}
    spoken = {f"spoken {i}": box for i in range(6)}
    names = frozenset(categories)
    picture = Picture(0, 0, Path("x"), (), {**phrases, **categories}, names, spoken)
    sampler = Sampler.__new__(Sampler)
    sampler.recipe, sampler.rng = default(), Random(0)
    named = sampler._named(picture)
    assert [sum(text.startswith(kind) for text in named) for kind in ("phrase", "category", "spoken")] == [
        4,
        4,
        0,
    ]
    few = Picture(0, 0, Path("x"), (), {"category 0": box}, frozenset({"category 0"}), spoken)
    assert len(sampler._named(few)) == len(set(sampler._named(few))) == 7
