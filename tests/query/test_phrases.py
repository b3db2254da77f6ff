"""Brackets, noun phrases and the whole text; spans are exact whatever is typed."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xattn.query import MAX_PARSED, Query, parse

# Labelled by hand before any output was seen: brackets hold what a person would draw one outline around.
# The rules were repaired on SEEN; HELD_OUT was scored once they were finished.
SEEN = """
[a man] riding [a horse]
[grey and white cat]
[a red bus] next to [a tree]
[two dogs] playing [frisbee] on [the beach]
[person] on [skis]
[pizza] on [a table]
[A cat] sitting on top of [a car]
[A woman] is holding [a pink umbrella] in [the rain]
[A group of people] standing in front of [a building]
[A plate of food] with [broccoli] and [chicken]
[A man] in [a suit] and [tie] looks at [his phone]
[a little girl] eating [a slice of pizza]
[Three giraffes] standing in [a grassy field]
[A bathroom] with [a toilet], [a sink] and [a bathtub]
[A black and white photo] on [a wall]
[A baseball player] swings [his bat] at [the ball]
[a parked motorcycle] near [a brick wall]
[An old wooden bench] under [a tree]
[The man] is wearing [a red hat]
[Several boats] are docked in [the harbor]
[A dog] laying on [a couch] with [its head] on [a pillow]
[A kitchen] that has [a stove] and [a refrigerator]
[People] walk down [a busy street] with [umbrellas]
[A train] traveling down [train tracks] next to [a forest]
[The clock] on [the tower] reads [noon]
[A teddy bear] sitting on [a bed]
[a living room] with [a large television]
[A surfer] rides [a large wave]
[A bowl of fruit] on [a wooden table]
[Two women] and [a child] are cutting [a cake]
[sliced bread] on [a cutting board]
[A person] jumping [a skateboard] in the air
[a white truck] parked on the side of [the road]
[A herd of elephants] crossing [a river]
[A cell phone] and [a remote control] on [a desk]
[A giraffe] bending down to eat [grass]
[Vases] filled with [flowers] sit on [a window sill]
[The woman's hand] holds [a hot dog]
[a blue and yellow train] at [the station]
[A kid] plays [tennis] on [a court]
there is [a zebra] behind [the fence]
A close up of [a sandwich] on [a plate]
[a very tall building] with [many windows]
[the dog] on the left
""".strip().splitlines()

HELD_OUT = """
[A boy] throws [a frisbee] in [the park]
[a couple of zebras] grazing in [a field]
[A bird] perched on [a branch] above [the water]
[brown leather sofa]
[a bicycle] leaning against [a fence]
[A traffic light] hanging over [the street]
[a man] in [a wetsuit] carries [his surfboard] to [the ocean]
[children] playing [soccer]
[a pair of scissors] and [a roll of tape]
[The cat] is sleeping inside [a suitcase]
[a snowboarder] doing [a trick] off [a ramp]
[A stop sign] covered in [stickers]
[a glass of red wine] beside [a laptop]
[a small brown dog] with [a ball] in [its mouth]
[a red and white airplane] flying through [the sky]
[a horse] pulls [a carriage] down [the street]
[an orange cat] looking out of [a window]
[the bride] and [groom] cut [the cake]
[A fire hydrant] in the middle of [the sidewalk]
[A kite] flies high over [the trees]
[fresh vegetables] at [a market]
[a woman] with [long blonde hair] smiling
[A desk] with [a computer], [a keyboard] and [a mouse]
[elephants] near [a water hole]
[Two men] shake [hands]
[A polar bear] swims in [a pool]
[a stack of pancakes] with [syrup]
[a birthday cake] with [lit candles]
[a skier] going down [a snowy slope]
[a vase of roses] on [a dining table]
[a child's drawing] on [the refrigerator]
[an empty parking lot] at [night]
[a broken umbrella] lies on [the ground]
[a toddler] brushing [his teeth]
[a yellow taxi] stuck in [traffic]
[a black cat] and [a white dog] sharing [a bed]
[a baby elephant] walks behind [its mother]
the inside of [a bus]
[a donut] with [chocolate frosting] and [sprinkles]
[a street sign] in front of [a tall glass building]
[a bunch of ripe bananas] hanging from [the ceiling]
[a tennis player] about to hit [the ball]
[a woman] who is talking on [her cell phone]
[a cow] and [its calf] standing in [the mud]
[boats] on [a lake] with [mountains] in the background
[three teddy bears] wearing [hats]
[the old man] reads [a newspaper]
[a dirty white sink] under [a mirror]
""".strip().splitlines()


def texts(query: str) -> list[str]:
    return [phrase.text for phrase in parse(query).phrases]


def check_exact(query: Query) -> None:
    end = 0
    for phrase in query.phrases:
        assert end <= phrase.start < phrase.end <= len(query.text)
        assert query.text[phrase.start : phrase.end] == phrase.text
        assert phrase.text == phrase.text.strip()
        end = phrase.end
    assert len({phrase.source for phrase in query.phrases}) <= 1
    assert bool(query.phrases) == bool(query.text.strip())


def f1(labelled: list[str]) -> float:
    """Exact-span F1 of the noun phrases of captions against their hand-made brackets."""
    right = found = wanted = 0
    for line in labelled:
        reference = parse(line)
        spans = {(p.start, p.end) for p in reference.phrases}
        answer = {(p.start, p.end) for p in parse(reference.text).phrases}
        right += len(spans & answer)
        found += len(answer)
        wanted += len(spans)
    return 2 * right / (found + wanted)


def test_labels_are_plausible() -> None:
    assert len(SEEN) >= 40
    assert len(HELD_OUT) >= 40
    assert not set(SEEN) & set(HELD_OUT)


def test_f1_on_captions_the_rules_were_made_on() -> None:
    assert f1(SEEN) >= 0.97


def test_f1_on_captions_held_out() -> None:
    assert f1(HELD_OUT) >= 0.93  # measured 0.945


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("a man riding a horse", ["a man", "a horse"]),
        ("grey and white cat", ["grey and white cat"]),
        ("an orange and a banana", ["an orange", "a banana"]),
        ("orange and white cat", ["orange and white cat"]),
        ("a man and woman", ["a man", "woman"]),
        ("two dogs playing frisbee on the beach", ["two dogs", "frisbee", "the beach"]),
        ("a cat sitting on top of a car", ["a cat", "a car"]),
        ("people in front of the left door", ["people", "the left door"]),
        ("a smiling woman", ["a smiling woman"]),
        ("snow covered hills", ["snow covered hills"]),
        ("hills covered in snow", ["hills", "snow"]),
        ("a photo of a dog", ["a dog"]),
        ("a photo on a wall", ["a photo", "a wall"]),
        ("she is holding it next to him and a dog", ["a dog"]),
        ("A MAN RIDING A HORSE", ["A MAN", "A HORSE"]),
        ("A Man Riding A Horse", ["A Man", "A Horse"]),
        ("the cat's tail", ["the cat's tail"]),
        ("2 dogs, 3 cats & a horse", ["2 dogs", "3 cats", "a horse"]),
        ("a kite that is flying", ["a kite"]),
        ("café terrace with white chairs", ["café terrace", "white chairs"]),
    ],
)
def test_noun_phrases(query: str, expected: list[str]) -> None:
    assert texts(query) == expected
    assert {phrase.source for phrase in parse(query).phrases} == {"noun"}


@pytest.mark.parametrize(
    "query",
    ["running", "next to", "it", "left", "собака на диване", "猫が好き", "🐶", "?!", "in front of them"],
)
def test_whole_text_where_there_is_no_noun_phrase(query: str) -> None:
    (phrase,) = parse(f"  {query}\n").phrases
    assert (phrase.text, phrase.start, phrase.end, phrase.source) == (query, 2, 2 + len(query), "whole")


@pytest.mark.parametrize("query", ["", " ", "\n\t ", "[]", "[ ]", "[[]]", "]["])
def test_blank_query_has_no_phrases(query: str) -> None:
    parsed = parse(query)
    assert parsed.phrases == ()
    assert parsed.text.strip() == ""


@pytest.mark.parametrize(
    ("query", "text", "expected"),
    [
        ("two [dogs] on [a red] sofa", "two dogs on a red sofa", ["dogs", "a red"]),
        ("[ riding a horse ]", " riding a horse ", ["riding a horse"]),
        ("[a [red] bus] and [it]", "a red bus and it", ["a red bus", "it"]),
        ("[a dog", "a dog", ["a dog"]),
        ("a dog] on [grass]", "a dog on grass", ["grass"]),
        ("[a [dog] on", "a dog on", ["dog"]),
        ("[a][b]", "ab", ["a", "b"]),
        ("a [] cat [ ]", "a  cat  ", ["a  cat"]),  # nothing marked: noun phrases
        ("[🐶] and [猫]", "🐶 and 猫", ["🐶", "猫"]),
    ],
)
def test_brackets(query: str, text: str, expected: list[str]) -> None:
    parsed = parse(query)
    check_exact(parsed)
    assert parsed.text == text
    assert [phrase.text for phrase in parsed.phrases] == expected


def test_marked_phrases_shut_out_noun_phrases() -> None:
    (phrase,) = parse("a man riding [a horse]").phrases
    assert (phrase.text, phrase.source) == ("a horse", "bracket")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_any_text(query: str) -> None:
    parsed = parse(query)
    check_exact(parsed)
    assert parsed.text == query.replace("[", "").replace("]", "")


WORDS = (
    "a the two red orange and or , of group slice riding parked left next to it's dog's cats [ ] - ' . 2 é"
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(WORDS.split()), max_size=60))
def test_any_words(words: list[str]) -> None:
    check_exact(parse(" ".join(words)))


@pytest.mark.parametrize(
    "unit", ["red ", "orange, ", "a red dog ", "slice of ", "[", "[a", "very ", "x", "orange and "]
)
def test_very_long_input_is_quick(unit: str) -> None:
    parse("a dog")
    query = parse(unit * (200_000 // len(unit)))
    check_exact(query)
    if query.phrases and query.phrases[0].source == "noun":
        assert query.phrases[-1].end <= MAX_PARSED


def test_parsing_from_many_threads_at_once() -> None:
    found: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append(texts("a red bus next to a tree"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["a red bus", "a tree"]] * 8
