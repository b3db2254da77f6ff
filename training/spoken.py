"""Noun phrases of captions that name things whose boxes are known.

A category has one name; people have many ("a man", "two little girls in red"). Where a caption's noun
phrase ends in a word for a category that has boxes in the photo, the phrase is taken to name these boxes:
supervision of the attention in the words that people search with, without another annotation. It is
right of the kind of thing and blind to which one: of two men, "a man in a hat" names both.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from xattn.phrases import parse

PEOPLE = (
    "person people man men woman women boy boys girl girls child children kid kids toddler baby "
    "guy guys lady ladies player players batter catcher pitcher umpire rider riders skier "
    "skiers surfer surfers snowboarder snowboarders skateboarder cyclist pedestrian pedestrians "
    "crowd"
)
SYNONYMS = {
    "bike": "bicycle",
    "motorbike": "motorcycle",
    "plane": "airplane",
    "jet": "airplane",
    "stoplight": "traffic light",
    "hydrant": "fire hydrant",
    "meter": "parking meter",
    "puppy": "dog",
    "kitten": "cat",
    "pony": "horse",
    "lamb": "sheep",
    "calf": "cow",
    "bull": "cow",
    "cattle": "cow",
    "purse": "handbag",
    "luggage": "suitcase",
    "ball": "sports ball",
    "bat": "baseball bat",
    "glove": "baseball glove",
    "mitt": "baseball glove",
    "racket": "tennis racket",
    "racquet": "tennis racket",
    "glass": "wine glass",
    "mug": "cup",
    "knives": "knife",
    "dish": "bowl",
    "hotdog": "hot dog",
    "doughnut": "donut",
    "sofa": "couch",
    "plant": "potted plant",
    "table": "dining table",
    "desk": "dining table",
    "television": "tv",
    "computer": "laptop",
    "phone": "cell phone",
    "cellphone": "cell phone",
    "stove": "oven",
    "fridge": "refrigerator",
    "teddy": "teddy bear",
} | dict.fromkeys(PEOPLE.split(), "person")
"""Other words for COCO's categories, in the singular."""


def category_of(phrase: str, categories: Collection[str]) -> str | None:
    """The category that a noun phrase's last words name, in the singular or the plural.

    >>> category_of("two brown dogs", {"dog", "hot dog"}), category_of("a hot dog", {"dog", "hot dog"})
    ('dog', 'hot dog')
    >>> category_of("the young man", {"person"}), category_of("a dog house", {"dog"})
    ('person', None)
    """
    words = re.findall(r"[a-z]+", phrase.lower())
    for count in (2, 1):  # a "hot dog" is no dog
        last = " ".join(words[-count:])
        for singular in (last, last.removesuffix("s"), last.removesuffix("es")):
            named = SYNONYMS.get(singular, singular)
            if named in categories:
                return named
    return None


def named_in_captions(captions: Iterable[str], categories: Collection[str]) -> dict[str, str]:
    """Noun phrase → the category it names, of all captions; a category's own name is none.

    >>> named_in_captions(["A man rides a brown horse"], {"horse", "person"})
    {'A man': 'person', 'a brown horse': 'horse'}
    """
    found = {}
    for caption in captions:
        for phrase in parse(caption).phrases:
            category = category_of(phrase.text, categories)
            if category is not None and phrase.text != category:
                found[phrase.text] = category
    return found
