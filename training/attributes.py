"""Texts made wrong by one attribute: "a red bus" → "a yellow bus".

An exchanged word gives a negative in the same photo, where everything but the attribute is right (as the
swaps of SugarCrepe, Hsieh et al. 2023, but for training). A text that may be true of the photo is never
drawn. Colours are drawn about as often as people write them: if wrong texts had the rare colours, the words
alone would tell them.
"""

from __future__ import annotations

import random
import re

from training.photos import Photo, normalised, words_of

COLOURS = ("red", "blue", "green", "yellow", "orange", "pink", "purple", "brown", "black", "white", "gray")
GROUPS: tuple[tuple[str, ...], ...] = (
    COLOURS,
    ("wooden", "metal", "plastic", "brick", "glass", "leather", "concrete", "paper"),
    ("striped", "plaid", "checkered", "floral", "polka dot"),
    ("young", "old", "elderly"),
    ("big", "small"),
    ("large", "tiny"),
    ("long", "short"),
    ("man", "woman"),
    ("men", "women"),
    ("boy", "girl"),
    ("boys", "girls"),
    ("shirt", "jacket", "coat", "sweater", "dress"),
    ("pants", "shorts", "skirt", "jeans"),
    ("hat", "helmet", "scarf", "sunglasses"),
    ("dog", "cat", "horse", "cow", "sheep", "bird", "elephant", "giraffe", "zebra", "bear"),
    ("car", "bus", "truck", "train", "boat", "motorcycle", "bicycle", "airplane"),
    ("grass", "sand", "snow", "water"),
    ("sitting", "standing", "running", "jumping", "sleeping"),
)
SYNONYMS = {
    "grey": "gray",
    "bike": "bicycle",
    "motorbike": "motorcycle",
    "plane": "airplane",
    "little": "small",
}
_GROUP_OF = {word: group for group in GROUPS for word in group}
_ATTRIBUTE = re.compile(r"\b(" + "|".join([*_GROUP_OF, *SYNONYMS]) + r")\b", re.IGNORECASE)
COLOUR_COUNTS = dict(zip(COLOURS, (15, 15, 10, 10, 7, 7, 5, 8, 18, 18, 7), strict=True))
COLOUR_SHARE = 0.6
"""Probability that a colour is exchanged where a text has both a colour and another attribute."""


def swapped(text: str, photo: Photo, rng: random.Random, count: int) -> list[str]:
    """Up to `count` texts with one attribute exchanged, none of them known of the photo."""
    matches = list(_ATTRIBUTE.finditer(text))
    if not matches:
        return []
    colours = [match for match in matches if _canonical(match.group()) in COLOURS]
    pool = colours if colours and (len(colours) == len(matches) or rng.random() < COLOUR_SHARE) else matches
    match = rng.choice(pool)
    word = _canonical(match.group())
    present = set(words_of(text))
    others = [o for o in _GROUP_OF[word] if o not in present and not _may_be_true(o, word, photo)]
    # Weighted order without replacement (Efraimidis & Spirakis 2006).
    others.sort(key=lambda o: -(rng.random() ** (1 / COLOUR_COUNTS.get(o, 1))))
    texts = [text[: match.start()] + other + text[match.end() :] for other in others]
    return [_article(t) for t in texts if normalised(t) not in photo.named and t not in photo.captions][
        :count
    ]


def _may_be_true(other: str, word: str, photo: Photo) -> bool:
    """Things and actions that are said of the photo elsewhere are no safe exchange; colours are."""
    return other in photo.words and word not in COLOURS


def _canonical(word: str) -> str:
    return SYNONYMS.get(word.lower(), word.lower())


def _article(text: str) -> str:
    """Without "a orange car", by which the exchange could be told."""
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return re.sub(r"\b([Aa])n (?=[^aeiou\W])", r"\1 ", text)
