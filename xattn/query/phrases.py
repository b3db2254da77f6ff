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
from dataclasses import dataclass
from typing import Literal

from xattn.query.lexicon import Span
from xattn.query.noun_phrases import noun_spans
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
    # Half a sign, as from a terminal of another encoding: no tokenizer or output could take it.
    whole_signs = query.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text, spans = _strip_brackets(whole_signs)
    source: Literal["bracket", "noun", "whole"] = "bracket"
    if not spans:
        spans, source = noun_spans(text[:MAX_PARSED]), "noun"
    if not spans:
        spans, source = _trimmed(text, 0, len(text)), "whole"
    return Query(text, tuple(Phrase(text[start:end], start, end, source) for start, end in spans))


# --- brackets ---------------------------------------------------------------------------------------


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


# --- word classes: one character a word -------------------------------------------------------------
# D determiner or number, A adjective, R adverb, N noun, K colour or material (adjective or noun),
# Q quantity noun, O "of", C "and" or "or", "," comma, "." all else, which ends a phrase.
