"""Right colours, and presence of categories."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.color_model import color_model, paint
from xattn.datasets import Dataset, NamedBox, Record
from xattn.evaluation.attributes import (
    COLOURS,
    area_under_curve,
    measure_colours,
    measure_presence,
    recoloured,
)
from xattn.evaluation.encoding import EncodedPictures

BOX = (0.0, 0.0, 0.5, 0.5)


@pytest.fixture(name="dataset")
def dataset_fixture(tmp_path: Path) -> Dataset:
    """Two pictures; the second's phrase names a colour that it lacks."""
    records = []
    for number, (spot, phrase) in enumerate([("red", "a red spot"), ("blue", "a yellow spot")]):
        path = tmp_path / f"{number}.png"
        paint((5, 7), "cyan", {(1, 4): spot, (2, 4): spot}).save(path)
        records.append(
            Record(
                str(number),
                path,
                ("a spot",),
                boxes=(NamedBox(spot, BOX),),
                phrases=(NamedBox(phrase, BOX), NamedBox("red or blue", BOX), NamedBox("a spot", BOX)),
            )
        )
    return Dataset("spots", "dev", tuple(records))


def test_a_phrase_becomes_eleven() -> None:
    texts = recoloured("The Grey coat")
    assert texts[0] == "The Grey coat"
    assert len(set(texts)) == len(COLOURS)
    assert "The gray coat" not in texts
    assert "The red coat" in texts


def test_right_colours_are_counted_by_each_part_of_the_score(dataset: Dataset) -> None:
    model = color_model()
    with EncodedPictures(model, [record.image for record in dataset.records]) as encoded:
        measured = {m.subject: m for m in measure_colours(model, encoded, dataset)}
        blind = list(
            measure_colours(
                model, encoded, replace(dataset, records=(replace(dataset.records[0], phrases=()),))
            )
        )
    assert set(measured) == {"score", "attention", "pooled", "presence", "chance"}
    # Phrases of two colours and of none are no cases.
    assert measured["attention"].values.tolist() == [1.0, 0.0]
    assert measured["presence"].values.tolist() == [1.0, 0.0]
    assert measured["chance"].values.tolist() == pytest.approx([1 / 11, 1 / 11])
    assert not blind


def test_presence_tells_what_is_there(dataset: Dataset) -> None:
    model = color_model()
    with EncodedPictures(model, [record.image for record in dataset.records]) as encoded:
        measured = {m.subject: m for m in measure_presence(model, encoded, dataset)}
    for part in ("presence", "attention", "score"):
        values = measured[part].values
        assert values.shape == (2, 2, 2)
        assert area_under_curve(values) == 1.0


def test_area_under_the_curve_counted_by_hand() -> None:
    rng = np.random.default_rng(0)
    values = np.stack([rng.integers(0, 5, (6, 7)).astype(float), rng.integers(0, 2, (6, 7))], -1)
    scores, there = values[..., 0].ravel(), values[..., 1].ravel() > 0
    wins = [float(a > b) + 0.5 * float(a == b) for a in scores[there] for b in scores[~there]]
    assert area_under_curve(values) == pytest.approx(np.mean(wins))
    assert np.isnan(area_under_curve(values[:, :0]))
    counts = np.array([2, 0, 1, 0, 0, 3])
    assert area_under_curve(values, counts) == pytest.approx(area_under_curve(values.repeat(counts, 0)))
