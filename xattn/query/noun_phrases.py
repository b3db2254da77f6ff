"""Noun phrases of a sentence, by a tagger and a small grammar."""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from xattn.query.lexicon import (
    AUXILIARIES,
    COLOR_NOUNS,
    COLORS,
    DETERMINERS,
    FIXED_CLASSES,
    HEAD_LOCATIONS,
    ING_COMPOUNDS,
    ING_NOUNS,
    INTRANSITIVE,
    LINKING,
    LOCATIONS,
    LOOSE,
    NOUNS,
    PICTURES,
    PRONOUNS,
    QUANTITIES,
    SUBJECTS,
    VERBS,
    Span,
)


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


def noun_spans(text: str) -> list[Span]:
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
