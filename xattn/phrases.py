"""Query → the phrases that are grounded one by one.

What the user put in `[brackets]` comes first; else noun phrases; else the whole text. Noun phrases are
found offline: TextBlob's PatternParser (a Brill-style tagger with its own lexicon) gives each word a
part of speech, the tables below repair what it gets wrong in picture descriptions, and one regular
expression over word classes, one character a word, picks the phrases.

A noun phrase here is what a person would draw one outline around:
- determiners and adjectives belong to it: "a red bus", "grey and white cat", "the man's hat";
- so does what is only measured or contained: "a slice of pizza", "a group of people", "a glass of wine";
- a participle before its noun does ("a parked car"), one after it does not ("a man riding a horse");
- words that only say where ("next to", "the top of", "in the background"), pronouns, and the picture
  itself ("a photo of …") are no phrases.
"""

from __future__ import annotations

import itertools
import re
import threading
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from xattn.types import Phrase

MAX_PARSED = 2000
"""Characters in which noun phrases are looked for: beyond it no text tower reads, and tagging costs."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a user typed, taken apart.

    text:    the query without brackets; this is what is searched
    phrases: in order, not overlapping, text[p.start:p.end] == p.text; empty only when text is blank
    """

    text: str
    phrases: tuple[Phrase, ...]


def parse(query: str) -> Query:
    """Finds the phrases of a query. Never raises, whatever the characters.

    `[brackets]` mark phrases and are removed. Of nested brackets the outermost pair counts; a bracket
    without a partner, or with nothing but blanks inside, is removed and marks nothing. Without a marked
    phrase the noun phrases are taken, and without those the whole text.

    >>> [p.text for p in parse("a man riding a horse").phrases]
    ['a man', 'a horse']
    >>> parse("two [dogs on] grass").phrases
    (Phrase(text='dogs on', start=4, end=11, source='bracket'),)
    """
    text, spans = _strip_brackets(query)
    source: Literal["bracket", "noun", "whole"] = "bracket"
    if not spans:
        spans, source = _noun_spans(text[:MAX_PARSED]), "noun"
    if not spans:
        spans, source = _trimmed(text, 0, len(text)), "whole"
    return Query(text, tuple(Phrase(text[start:end], start, end, source) for start, end in spans))


# --- brackets ---------------------------------------------------------------------------------------

Span = tuple[int, int]


def _strip_brackets(query: str) -> tuple[str, list[Span]]:
    """The query without its square brackets, and what the outermost pairs held, as spans of the result."""
    partner: dict[int, int] = {}
    opened: list[int] = []
    for i, character in enumerate(query):
        if character == "[":
            opened.append(i)
        elif character == "]" and opened:
            partner[opened.pop()] = i
    removed_before = list(itertools.accumulate((c in "[]" for c in query), initial=0))
    text = query.replace("[", "").replace("]", "")
    spans: list[Span] = []
    last_close = -1
    for start in sorted(partner):
        if start < last_close:
            continue
        last_close = partner[start]
        spans += _trimmed(text, start - removed_before[start], last_close - removed_before[last_close])
    return text, spans


def _trimmed(text: str, start: int, end: int) -> list[Span]:
    """The span without blanks at its ends, as a list of one, or of none where only blanks are left."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return [(start, end)] if start < end else []


# --- words ------------------------------------------------------------------------------------------


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Nouns the tagger takes for verbs or adjectives.
NOUNS = _words("""
    bear bears light lights remote remotes drink drinks stop fries surf ski skis bat bats glasses bite
    kids kid teen teens adult adults elderly female male blonde vegetables vegetable veggies cell
    microwave individual individuals giraffe giraffes frisbee frisbees skateboard skateboards snowboard
    snowboards surfboard surfboards toothbrush toothbrushes laptop laptops sink sinks track tracks net
    nets monitor monitors mirror mirrors sprinkles moped mopeds sled sleds cooler ostrich console match
""")
# Words in -ing that are things, not doings.
ING_NOUNS = _words("""
    awning bedding being building buildings carving ceiling clothing drawing dressing duckling earring
    earrings evening filling flooring frosting icing king landing lighting morning packaging painting
    paintings parking pudding railing ring rings seedling siding sling spring string swing thing things
    topping toppings wedding wing wings wiring
""")
# Gerunds that make a compound with the noun after them.
ING_COMPOUNDS: dict[str, frozenset[str]] = {
    gerund: _words(nouns)
    for gerund, nouns in {
        "baking": "pan sheet tray dish",
        "boarding": "gate pass bridge",
        "boxing": "ring gloves",
        "cutting": "board boards",
        "dining": "room table tables area hall chair chairs set",
        "fishing": "boat boats rod pole net",
        "frying": "pan pans",
        "ironing": "board",
        "living": "room rooms area space",
        "mixing": "bowl bowls",
        "parking": "lot lots meter meters garage space spot sign",
        "racing": "car cars bike",
        "rocking": "chair chairs horse",
        "rolling": "pin",
        "running": "shoes track water",
        "sewing": "machine",
        "shopping": "cart carts bag bags mall center",
        "sleeping": "bag bags",
        "steering": "wheel",
        "swimming": "pool suit trunks",
        "waiting": "room area",
        "walking": "stick path trail",
        "washing": "machine machines",
    }.items()
}
# Participles that describe the noun after them even where no determiner says so: they take no object.
INTRANSITIVE = _words("""
    barking blooming burning crying dancing falling flying flowing glowing grazing jumping kneeling
    laughing lying meowing resting running screaming shining sitting sleeping smiling standing swimming
    yawning
""")
# Participles that tie the noun before them to the noun after: "a snow covered hill".
LINKING = _words(
    "colored coloured covered filled flavored lined looking patterned shaped sized styled topped"
)
# Verbs the tagger takes for nouns when they follow one: "a man walks", "two people walk".
VERBS = _words("""
    approach attempt bend bite board board bowl brush carry catch chase check chew climb crash cross cut
    dance dive drink drive eat enjoy fall feed fish fight flip float fly gather gaze glide graze grind
    hang head help hike hit hold jump kick kiss kneel land laugh lay lead lean leap lie lift look lounge
    make march nap nuzzle pack paddle park perch pet pitch play point pose post practice prepare pull
    push race raise reach read relax rest ride roll row run sail share show sit skate skateboard ski
    sleep slide smell smile sniff snowboard splash stand stare steer stick stretch stroll surf swim
    swing take talk throw tie touch tow travel use view wait wake walk wash watch wave wear wade work
    yawn
""")
# Where in the picture or on a thing: modifiers ("the front door"), never what a phrase is about.
LOCATIONS = _words("""
    top bottom front back side sides left right middle center centre edge end corner inside outside
    background foreground distance rear beside behind above below underneath upside next close other
    opposite direction way air midair
""")
# Those that head a compound: "street corner", "table top".
HEAD_LOCATIONS = _words("top side edge corner center centre end way")
PRONOUNS = _words("""
    i me you he him she her hers it its they them theirs we us mine yours who whom whose which what
    there here this these those that one ones others someone somebody something anyone anything everyone
    everything nothing nobody itself himself herself themselves myself yourself ourselves while when
    where
""")
SUBJECTS = _words("to i we you he she it they who that")
# Before a participle these stand for whoever does it: "men all holding bats".
LOOSE = _words("all both each some together while")
AUXILIARIES = _words(
    "is are was were be been am has have had do does did can could will would may might must"
)
DETERMINERS = _words("""
    a an the this that these those some any no every each all both several many few various multiple
    numerous another my your his her its our their two three four five six seven eight nine ten
""")
# Nouns that only measure or hold the noun after "of".
QUANTITIES = _words("""
    amount amounts array assortment bag bags basket baskets bed bit block body bottle bottles bouquet
    bowl bowls box boxes bucket bunch bunches can cans carton case cluster collection container
    containers couple crate crowd cup cups dozen dozens fleet flock glass glasses group groups half herd
    jar jars kind line loaf lot lots mound mug number order pack package pair pairs patch piece pieces
    pile piles pitcher plate plates platter pot row rows school selection series set sheet slice slices
    sort spool stack stacks strip swarm team tray trays trio type types variety vase vases
""")
# The picture itself, when "of" follows.
PICTURES = _words("""
    collage picture pictures photo photos photograph photographs image images view views shot snapshot
    close-up closeup portrait scene drawing painting
""")
# Colours and materials that are nouns too: "an orange", but "orange and white cat".
COLOR_NOUNS = _words(
    "orange gold silver rose peach pink purple violet tan wood metal brick stone glass brass"
)
COLORS = _words("""
    red green blue yellow black white brown grey gray beige golden wooden metallic striped spotted plaid
    colorful colourful dark bright pale light
""")


FIXED_CLASSES = {"of": "O", "and": "C", "or": "C", "&": "C", ",": ","}


class _Word(NamedTuple):
    text: str  # lower case
    start: int
    end: int
    tag: str  # Penn Treebank


_WORD = re.compile(
    r"\w[\w\u0300-\u036f]*(?:['\u2019-]\w[\w\u0300-\u036f]*)*(?:(?<=s)['\u2019](?=\s\w))?|\S"
)
_loading = threading.Lock()
_tagger: Callable[[str], list[tuple[str, str]]] | None = None


def _load_tagger() -> Callable[[str], list[tuple[str, str]]]:
    """TextBlob's tagger for words joined by single blanks. Imported on first use: it takes a second."""
    global _tagger
    with _loading:  # its lexicon fills itself on first use, visibly to other threads
        if _tagger is None:
            from textblob.en import lexicon, parser

            len(lexicon)

            def tag(text: str) -> list[tuple[str, str]]:
                known = " ".join(w.lower() if w.lower() in lexicon else w for w in text.split(" "))
                (sentence,) = parser.parse(known, tokenize=False, chunks=False, collapse=False)
                return [(word, tag) for word, tag in sentence]

            _tagger = tag
    return _tagger


def _tagged_words(text: str) -> list[_Word]:
    found = list(_WORD.finditer(text))
    if not found:
        return []
    tagged = _load_tagger()(" ".join(match.group() for match in found))
    return [
        _Word(match.group().lower().replace("\u2019", "'"), match.start(), match.end(), tag)
        for match, (_, tag) in zip(found, tagged, strict=True)
    ]


def _is_foreign(text: str) -> bool:
    """True for scripts the tagger knows no word of; it would call everything a noun."""
    return any(c.isalpha() and ord(c) > 0x24F and "LATIN" not in unicodedata.name(c, "") for c in text)


# --- word classes: one character a word -------------------------------------------------------------
# D determiner or number, A adjective, R adverb, N noun, K colour or material (adjective or noun),
# Q quantity noun, O "of", C "and" or "or", "," comma, "." all else, which ends a phrase.

_NOUN_PHRASE = re.compile(
    r"""
    (?:D*(?:R*[AK])*QO)*                        # a group of, a big slice of
    D*
    (?:
        R*[AK](?:(?:,?C|,)R*[AK])+(?=[ANKQ])    # grey and white
      | R*[AK](?=[AKNQR])                       # very tall
      | [NKQ](?=[ANKQ])                         # the man's, tennis
    )*
    [NKQ]
    """,
    re.VERBOSE,
)


def _noun_spans(text: str) -> list[Span]:
    if _is_foreign(text):
        return []
    words = _tagged_words(text)
    classes = _classes(words)
    spans: list[Span] = []
    for match in _NOUN_PHRASE.finditer(classes):
        first, last = words[match.start()], words[match.end() - 1]
        names_the_picture = last.text in PICTURES and classes[match.end() : match.end() + 1] == "O"
        if not names_the_picture:
            spans.append((first.start, last.end))
    return spans


def _classes(words: Sequence[_Word]) -> str:
    classes: list[str] = []
    for i, word in enumerate(words):
        before = classes[-1] if classes else "."
        following = words[i + 1] if i + 1 < len(words) else None
        classes.append(_class(word, before, words[i - 1] if i else None, following))
    return "".join(classes)


def _class(word: _Word, before: str, previous: _Word | None, following: _Word | None) -> str:
    """The class of one word, given the class of the word before it and its neighbours."""
    text, tag = word.text, word.tag
    if text in FIXED_CLASSES:
        return FIXED_CLASSES[text]
    leads = following is not None and _may_follow_modifier(following)
    if text in DETERMINERS or text.isdigit() or tag in ("DT", "PDT", "CD", "PRP$"):
        relative = text == "that" and before in "NQK"
        return "." if relative or (text in PRONOUNS and not leads) else "D"
    stem, apostrophe, ending = text.partition("'")
    contracted = apostrophe and ending not in ("s", "")
    if contracted or stem in PRONOUNS or text in AUXILIARIES or not text[0].isalnum():
        return "."
    if text in LOCATIONS:
        compound = (
            text in HEAD_LOCATIONS and previous is not None and before in "NK" and previous.tag != "NNS"
        )
        return "N" if compound else "A" if tag != "IN" or before in "DA" else "."
    if text in COLOR_NOUNS:
        return "K"
    if text in COLORS and leads:
        return "A"
    if text in QUANTITIES and following is not None and following.text == "of":
        return "Q"
    if text in NOUNS and (text not in VERBS or before in "DA"):
        return "N"
    return _open_class(word, before, previous, following)


def _open_class(word: _Word, before: str, previous: _Word | None, following: _Word | None) -> str:
    """Nouns, verbs, adjectives and adverbs: where tags of words in picture descriptions go wrong."""
    text, tag = word.text, word.tag
    if text.endswith("ing") and text not in ING_NOUNS:
        return _participle(text, before, previous, following)
    if text.endswith("ed") and tag in ("VBN", "VBD"):
        linked = before in "DARC.,O" or text in LINKING or "-" in text
        return "A" if linked and _is_noun_like(following) else "."
    if previous is not None and _is_finite_verb(text, before, previous):
        return "."
    if tag.startswith("VB") or tag == "MD":
        return "N" if before in "DA" and previous is not None and previous.text not in PRONOUNS else "."
    if tag.startswith("NN"):
        return "N"
    if tag.startswith("JJ"):
        return "A"
    return "R" if tag.startswith("RB") else "."


def _participle(text: str, before: str, previous: _Word | None, following: _Word | None) -> str:
    """A in "a smiling woman" and "dining table", but "." in "riding a horse" and "a man skiing"."""
    if following is None or not _is_noun_like(following):
        return "."
    if following.text in ING_COMPOUNDS.get(text, ()) or "-" in text or text in LINKING:
        return "A"
    if previous is not None and previous.text in LOOSE:
        return "."
    return "A" if before in "DAR" or (before not in "NQK" and text in INTRANSITIVE) else "."


def _is_finite_verb(text: str, before: str, previous: _Word) -> bool:
    """As "walks" is after "man", and "walk" after "people", "to" or "they"."""
    if text in VERBS and before == ".":
        return previous.text in SUBJECTS
    if before not in "NQK":
        return False
    if text in VERBS:
        return previous.tag == "NNS" or previous.text in ("people", "men", "women", "children")
    stem = text.removesuffix("s")
    return stem != text and (stem in VERBS or stem.removesuffix("e") in VERBS or stem[:-2] + "y" in VERBS)


def _is_noun_like(word: _Word | None) -> bool:
    return word is not None and (
        word.tag.startswith(("NN", "JJ", "VB")) or word.text in NOUNS | COLORS | COLOR_NOUNS | QUANTITIES
    )


def _may_follow_modifier(word: _Word) -> bool:
    return word.tag.startswith(("NN", "JJ", "RB", "CD", "VBN", "VBG", "VB")) or word.text in NOUNS
