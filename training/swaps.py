"""Captions made wrong by one word: hard negatives for a contrastive loss.

A noun becomes another noun that captions name, or one of several words that exclude each other (colours,
sizes, postures, …) becomes another of them, as NegCLIP does it (Yuksekgonul et al. 2023). The caption then
reads as well as before and is false of its picture, most times: "a dog on a red couch" may lie on a bed as
well, but a word that means nearly the same, or that another caption of the picture has, is never taken.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from xattn.encoders.hybrid.text import SentenceEncoder
from xattn.query import parse
from xattn.training.pictures import Dataset

EXCLUSIVE = tuple(
    words.split()
    for words in (
        "red green blue yellow black white brown orange pink purple gray grey",
        "small large big tiny huge",
        "young old",
        "wooden metal plastic glass stone brick",
        "sitting standing lying walking running",
        "open closed",
        "empty full crowded",
        "short long",
        "two three four five six several",
        "smiling sleeping eating",
        "sunny cloudy snowy rainy",
        "front back",
        "inside outside",
    )
)
"""Of each row a thing is one at most, or nearly so."""
SAME = ({"small", "tiny"}, {"large", "big", "huge"}, {"gray", "grey"}, {"empty", "open"})
"""Words of one row that do not exclude each other."""
MIN_COUNT = 8
"""Captions that name a noun, before it is put into others."""
MOST_ALIKE = 0.6
"""Cosine of the sentence embeddings of two nouns; above it they may mean the same thing."""
NEAREST = 40
"""Nouns that may stand in the place of one: "a dog at a table" becomes no dog at a groom."""
NOUN_SHARE = 0.6
"""Of the swaps, so many are of nouns where a caption allows both kinds."""

PER_CAPTION = 3

_WORD = re.compile(r"[A-Za-z]+")
Span = tuple[int, int]


def head_nouns(caption: str) -> list[Span]:
    """The last word of each noun phrase, as spans of the caption.

    >>> [("a dog on a red couch")[start:end] for start, end in head_nouns("a dog on a red couch")]
    ['dog', 'couch']
    """
    found = []
    for phrase in parse(caption.replace("[", " ").replace("]", " ")).phrases:
        words = list(_WORD.finditer(phrase.text))
        if phrase.source == "noun" and words:
            found.append((phrase.start + words[-1].start(), phrase.start + words[-1].end()))
    return found


def common_nouns(captions: Sequence[str]) -> list[str]:
    """Head nouns that at least MIN_COUNT captions have, in lower case, sorted."""
    counts = Counter(
        noun for caption in captions for noun in {caption[s:e].lower() for s, e in head_nouns(caption)}
    )
    return sorted(noun for noun, count in counts.items() if count >= MIN_COUNT)


def others(nouns: Sequence[str], sentences: Float[Tensor, "N width"]) -> dict[str, list[str]]:
    """For each noun those near it that mean something else, nearest first. Plurals (in -s) for plurals.

    sentences: their unit embeddings
    """
    alike = sentences @ sentences.T
    found = {}
    for n, noun in enumerate(nouns):
        near = [nouns[m] for m in alike[n].argsort(descending=True).tolist() if alike[n, m] < MOST_ALIKE]
        found[noun] = [word for word in near if word.endswith("s") == noun.endswith("s")][:NEAREST]
    return found


def with_wrong_captions(dataset: Dataset, text: SentenceEncoder, seed: int) -> Dataset:
    """The same pictures, each with wrong versions of its captions."""
    nouns = common_nouns([caption for picture in dataset.pictures for caption in picture.captions])
    instead: dict[str, list[str]] = {}
    if nouns:
        with torch.inference_mode():
            instead = others(nouns, text.sentences(text.features(*text.tokenize(nouns))))
    rng = random.Random(seed)
    pictures = [
        replace(picture, wrong=wrong_captions(picture.captions, instead, PER_CAPTION, rng))
        for picture in dataset.pictures
    ]
    return replace(dataset, pictures=tuple(pictures))


def wrong_captions(
    captions: Sequence[str], instead: Mapping[str, Sequence[str]], count: int, rng: random.Random
) -> dict[str, tuple[str, ...]]:
    """Caption → at most `count` wrong ones, for the captions of one picture.

    instead: noun → others that may stand in its place (`others`)
    """
    said = {word.lower() for caption in captions for word in _WORD.findall(caption)}
    return {caption: _wrong(caption, said, instead, count, rng) for caption in captions}


def _wrong(
    caption: str, said: set[str], instead: Mapping[str, Sequence[str]], count: int, rng: random.Random
) -> tuple[str, ...]:
    nouns = [
        (span, others)
        for span in head_nouns(caption)
        if (others := [word for word in instead.get(caption[slice(*span)].lower(), ()) if word not in said])
    ]
    exclusive = [
        (match.span(), others)
        for match in _WORD.finditer(caption)
        if (others := [word for word in _excluded(match[0].lower()) if word not in said])
    ]
    found: dict[str, None] = {}
    for _ in range(count):
        places = nouns if nouns and (not exclusive or rng.random() < NOUN_SHARE) else exclusive
        if places:
            span, words = rng.choice(places)
            found[_replaced(caption, span, rng.choice(words))] = None
    return tuple(found)


def _excluded(word: str) -> list[str]:
    """
    >>> _excluded("big")
    ['small', 'tiny']
    """
    for row in EXCLUSIVE:
        if word in row:
            return [w for w in row if w != word and not any({w, word} <= same for same in SAME)]
    return []


def _replaced(caption: str, span: Span, word: str) -> str:
    """With the article before it made right.

    >>> _replaced("A dog on a couch", (2, 5), "umbrella")
    'An umbrella on a couch'
    """
    start, end = span
    before = re.sub(
        r"\b([Aa])n?(\s+)$", lambda m: m[1] + ("n" if word[0] in "aeiou" else "") + m[2], caption[:start]
    )
    return before + word + caption[end:]
