"""From an index to hits with maps: scores, phrases, order, and pictures that are in no index."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.color_model import paint
from tests.engine_photos import GRID, SIZE, check_sums, engine_fixture, model_fixture, names, photos_fixture  # noqa: F401  fixtures
from xattn.engine import Engine
from xattn.errors import ImageError, QueryError


def test_a_search_finds_the_picture_and_the_place(engine: Engine, photos: Path) -> None:
    report = engine.add(photos)
    assert names(report.added) == ["a.png", "b.png", "c.png"]
    assert len(engine) == 3
    hits = engine.search("a red square")
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    best = hits[0]
    assert best.path == photos / "a.png"
    assert best.size == SIZE
    assert best.whole.weights.shape == GRID
    assert best.whole.weights[1, 4] > 0.99
    assert best.whole.score == best.score
    assert best.whole.probability == best.probability > 0.5 > hits[1].probability
    assert hits[1].whole.null_weight > 0.9
    assert hits[1].path.name != "a.png"
    assert {hit.path.name: hit.whole.weights.shape for hit in hits} == {
        "a.png": (5, 7),
        "b.png": (7, 5),
        "c.png": (6, 6),
    }


def test_phrases_have_maps_of_their_own_and_all_sums_are_exact(engine: Engine, photos: Path) -> None:
    engine.add(photos)
    hits = engine.search("[a yellow spot] and [white] on green")
    best = hits[0]
    assert best.path.name == "b.png"
    assert best.whole.phrase.text == "a yellow spot and white on green"
    assert [g.phrase.text for g in best.phrases] == ["a yellow spot", "white"]
    assert best.phrases[0].weights[6, 2] > 0.99
    assert best.phrases[1].weights[0, 0] > 0.99
    assert best.groundings == best.phrases
    for hit in hits:
        for grounding in (hit.whole, *hit.phrases):
            check_sums(grounding)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("red", []),
        ("  [red]  ", []),
        ("a red square", []),
        ("[red] square", ["red"]),
        ("a red square on a blue field", ["a red square", "a blue field"]),
    ],
)
def test_the_whole_text_comes_first_and_is_not_repeated(
    engine: Engine, photos: Path, text: str, parts: list[str]
) -> None:
    engine.add(photos / "a.png")
    whole, *phrases = engine.ground(photos / "a.png", text)
    assert whole.phrase.text == text.replace("[", "").replace("]", "").strip()
    assert [g.phrase.text for g in phrases] == parts
    (hit,) = engine.search(text, 1)
    assert [g.phrase for g in hit.phrases] == [g.phrase for g in phrases]


def test_a_search_says_of_a_stored_picture_what_ground_says_of_its_file(
    engine: Engine, photos: Path
) -> None:
    engine.add(photos)
    hit = engine.search("a red square on a blue field", 1)[0]
    for stored, fresh in zip(
        (hit.whole, *hit.phrases), engine.ground(hit.path, "a red square on a blue field"), strict=True
    ):
        np.testing.assert_allclose(stored.weights, fresh.weights, atol=1e-3)
        assert stored.score == pytest.approx(fresh.score, abs=1e-2)
        assert [box.box for box in stored.boxes] == [box.box for box in fresh.boxes]
        check_sums(fresh)


def test_ground_takes_pictures_in_memory_upright(engine: Engine) -> None:
    picture = paint(GRID, "blue", {(1, 4): "red"})
    rotated = picture.transpose(Image.Transpose.ROTATE_90)
    rotated.getexif()[0x0112] = 6  # "turn by 90° clockwise to see it upright"
    for image in (picture, rotated, picture.convert("RGBA")):
        (whole,) = engine.ground(image, "red")
        assert whole.weights.shape == GRID
        assert whole.weights[1, 4] > 0.99


def test_ground_names_a_file_it_cannot_read(engine: Engine, photos: Path) -> None:
    (photos / "d.jpg").write_text("no picture")
    for name in ("d.jpg", "absent.jpg"):
        with pytest.raises(ImageError, match=name):
            engine.ground(photos / name, "red")


def test_equal_scores_are_ordered_by_id_and_k_is_kept(engine: Engine, photos: Path) -> None:
    for i in range(9):  # same colours, different files
        picture = paint(GRID, "blue", {(1, 4): "red"})
        picture.putpixel((0, 0), (0, 0, 200 + i))
        picture.save(photos / f"z{i}.png")
    engine.add(photos)
    everything = engine.search("red", 12)
    tied = [hit.path.name for hit in everything if hit.probability > 0.5]
    assert tied == ["a.png", *(f"z{i}.png" for i in range(9))]
    for k in (1, 4, 10):
        assert [hit.path.name for hit in engine.search("red", k)] == tied[:k]


def test_more_candidates_than_are_scored_at_once_change_nothing(
    engine: Engine, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.add(photos)
    expected = engine.search("yellow and gray")
    monkeypatch.setattr("xattn.engine.engine.SCORED_AT_ONCE", 1)
    for hit, same in zip(engine.search("yellow and gray"), expected, strict=True):
        assert hit.path == same.path
        assert hit.score == pytest.approx(same.score)


def test_candidates_limit_what_the_second_stage_sees(engine: Engine, photos: Path) -> None:
    engine.add(photos)
    assert len(engine.search("red", 1, candidates=1)) == 1
    assert len(engine.search("red", 3, candidates=1)) == 3


@pytest.mark.parametrize("text", ["", "  \n", "[]", "[ ]"])
def test_an_empty_query_is_an_error(engine: Engine, text: str) -> None:
    with pytest.raises(QueryError, match="the query is empty"):
        engine.search(text)
    with pytest.raises(ValueError, match="the query is empty"):
        engine.ground(paint(GRID, "red"), text)


def test_less_than_one_result_is_an_error(engine: Engine) -> None:
    with pytest.raises(QueryError, match="k must be at least 1, got 0"):
        engine.search("red", 0)
    with pytest.raises(QueryError, match="candidates must be at least 1, got -1"):
        engine.search("red", candidates=-1)


def test_an_empty_index_answers_with_nothing(engine: Engine) -> None:
    assert engine.search("red") == []
    assert len(engine) == 0
    assert engine.info().num_regions == 0
