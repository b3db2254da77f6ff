"""Evaluation end to end on painted pictures: every figure counted by hand, and the report of them."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from tests.color_model import color_model
from tests.painted import FAST, box_of, many_fixture, model_fixture, painted_fixture, spot, value  # noqa: F401  fixtures
from xattn.errors import DataError
from xattn.evaluation import Dataset, HardNegative, NamedBox, Record, Settings, Statement, evaluate
from xattn.model import XAttnModel

# --- figures ----------------------------------------------------------------------------------------


def test_retrieval(model: XAttnModel, painted: Dataset) -> None:
    report = evaluate(model, painted, settings=FAST)
    assert (report.num_pictures, report.num_captions) == (3, 4)
    for subject in ("pooled alone", "attention alone", "two-stage"):
        # "something gray" fits all three equally well: a tie of three, rank 3.
        assert value(report, "text → image", "recall@1", subject) == 3 / 4
        assert value(report, "text → image", "recall@5", subject) == 1
        assert value(report, "text → image", "median rank", subject) == 1
        assert report.figure("text → image", "recall@1", subject).num_cases == 4
        assert report.figure("image → text", "recall@1", subject).num_cases == 3
    # By pooled embedding each picture is mostly gray: red and green find "something gray" first.
    assert value(report, "image → text", "recall@1", "pooled alone") == 1 / 3
    gain = report.figure("image → text", "recall@1", "attention alone").gain
    assert gain is not None
    assert gain.value == pytest.approx(
        value(report, "image → text", "recall@1", "attention alone") - 1 / 3, abs=1e-9
    )
    assert report.figure("image → text", "recall@1", "pooled alone").gain is None


def test_grounding_and_its_baselines(model: XAttnModel, painted: Dataset) -> None:
    report = evaluate(model, painted, settings=FAST)
    group = "grounding: phrases"
    assert report.figure(group, "pointing game", "model").num_cases == 3
    assert value(report, group, "pointing game", "model") == 1
    assert value(report, group, "pointing game", "picture centre") == pytest.approx(1 / 3)  # the green cell
    assert value(report, group, "pointing game", "random place") == pytest.approx(1 / 35)
    # The largest box is the whole picture, whose centre is in the green cell.
    assert value(report, group, "pointing game", "largest region") == pytest.approx(1 / 3)
    assert value(report, group, "energy in box", "model") > 0.9
    assert value(report, group, "energy in box", "random place") == pytest.approx(1 / 35)
    assert value(report, group, "energy in box", "largest region") == pytest.approx(1 / 35)
    # The green cell lies in the central quarter of the picture, the red one's corner too, the blue one not.
    red_corner = (3 / 4 - 5 / 7) * (2 / 5 - 1 / 4)
    expected = (1 / 35 + red_corner) / (1 / 4) / 3
    assert value(report, group, "energy in box", "picture centre") == pytest.approx(expected)
    assert value(report, group, "box accuracy at IoU 0.5", "model") == 1
    assert value(report, group, "box accuracy at IoU 0.5", "random place") == 0
    gain = report.figure(group, "pointing game", "model").gain
    assert gain is not None
    assert gain.value == pytest.approx(2 / 3)

    group = "grounding: categories"  # two names a picture, of which "gray" is everywhere
    assert report.figure(group, "pointing game", "model").num_cases == 6
    assert value(report, group, "pointing game", "random place") == pytest.approx((1 + 1 / 35) / 2)
    assert value(report, group, "box accuracy at IoU 0.5", "largest region") == pytest.approx(1 / 2)


def test_any_box_of_a_name_is_right(model: XAttnModel, tmp_path: Path) -> None:
    picture = spot(tmp_path, "a", "red", (1, 5))
    far = NamedBox("red", (0.0, 0.5, 0.2, 1.0))
    near = NamedBox("red", box_of(1, 5))
    for boxes, expected in (((far,), 0), ((far, near), 1)):
        report = evaluate(model, Dataset("d", None, (Record("a", picture, boxes=boxes),)), settings=FAST)
        figure = report.figure("grounding: categories", "pointing game", "model")
        assert (figure.value.value, figure.num_cases) == (expected, 1)
        assert value(report, "grounding: categories", "box accuracy at IoU 0.5", "model") == expected


def test_hard_negatives_by_set_and_kind(model: XAttnModel, painted: Dataset) -> None:
    report = evaluate(model, painted, settings=FAST)
    found = {
        (figure.measure, figure.subject): (figure.value.value, figure.num_cases)
        for figure in report.figures
        if figure.group == "hard negatives"
    }
    assert found == {
        ("other, right of two", "all kinds"): (1, 1),
        ("other, right of two", "color"): (1, 1),
        ("swap, right of two", "all kinds"): (pytest.approx(1 / 3), 3),
        ("swap, right of two", "color"): (1 / 2, 2),
        ("swap, right of two", "nothing"): (0, 1),
    }


def test_statements(model: XAttnModel, painted: Dataset) -> None:
    statements = (
        Statement("blue", "vsr", "is", "a blue square", True),
        Statement("red", "vsr", "is", "a red square", True),
        Statement("red", "vsr", "is", "a blue square", False),
        Statement("red", "vsr", "near", "a red square", False),
    )
    grids = model.encode_images([Image.open(record.image).convert("RGB") for record in painted.records])
    score = model.score(grids, ["a blue square", "a red square"])
    threshold = float(score[0].mean().sigmoid())  # between the two, for the red picture
    assert score[2, 0].sigmoid() > threshold
    settings = Settings(threshold=threshold, num_resamples=50)
    report = evaluate(model, Dataset("d", None, painted.records, (), statements), settings=settings)
    assert value(report, "hard negatives", "vsr, true or false", "all kinds") == 3 / 4
    assert value(report, "hard negatives", "vsr, true or false", "is") == 1
    assert value(report, "hard negatives", "vsr, true or false", "near") == 0


def test_match_probability(model: XAttnModel, painted: Dataset) -> None:
    texts = [caption for record in painted.records for caption in record.captions]
    owners = [0, 1, 2, 2]
    grids = model.encode_images([Image.open(record.image).convert("RGB") for record in painted.records])
    probabilities = model.score(grids, texts).sigmoid().numpy()
    present = probabilities.max(0)
    absent = np.array([np.delete(probabilities[:, n], owner).max() for n, owner in enumerate(owners)])
    threshold = float((present[0] + absent[0]) / 2)
    assert absent[0] < threshold < present[0]

    model.calibration = replace(model.calibration, nothing_below=threshold)
    report = evaluate(model, painted, settings=FAST)
    said = np.concatenate([present, absent]) < threshold
    subject = "best match below the model's threshold"
    assert value(report, "nothing matched", "precision", subject) == said[4:].sum() / said.sum()
    assert value(report, "nothing matched", "recall", subject) == said[4:].mean()
    assert 0 < said[4:].mean() < 1

    right = np.concatenate([probabilities.argmax(0) == owners, np.zeros(4)])
    best = np.concatenate([present, absent])
    bins = np.minimum((best * 15).astype(int), 14)
    error = sum(abs((best - right)[bins == b].sum()) for b in range(15)) / 8
    found = value(report, "match probability", "calibration error", "best match of a search")
    assert found == pytest.approx(error, abs=1e-3)


def test_the_first_stage_can_lose_a_picture(model: XAttnModel, painted: Dataset) -> None:
    report = evaluate(model, painted, settings=Settings(candidates=1, num_resamples=50))
    for k in (1, 5, 10):
        first = value(report, "text → image", f"recall@{k}", "pooled alone")
        assert value(report, "text → image", f"recall@{k}", "two-stage") == first


def test_the_next_candidate_takes_the_place_of_a_picture_taken_out(
    model: XAttnModel, painted: Dataset
) -> None:
    model.calibration = replace(model.calibration, nothing_below=1e-9)  # which any picture passes
    report = evaluate(model, painted, settings=Settings(candidates=1, num_resamples=50))
    assert value(report, "nothing matched", "recall", "best match below the model's threshold") == 0


def test_calibration_on_own_and_random_pictures(model: XAttnModel, painted: Dataset) -> None:
    two = Dataset("two", None, painted.records[:2])  # where the random other picture is the other one
    grids = model.encode_images([Image.open(record.image).convert("RGB") for record in two.records])
    probabilities = model.score(grids, ["a red square", "a green square"]).sigmoid().numpy().round(3)
    assert probabilities[0, 0] == probabilities[1, 1] != probabilities[0, 1] == probabilities[1, 0]
    report = evaluate(model, two, settings=FAST)
    found = value(report, "match probability", "calibration error", "own and random pictures")
    expected = (abs(1 - probabilities[0, 0]) + probabilities[0, 1]) / 2
    assert found == pytest.approx(expected, abs=2e-3)


def test_two_models(model: XAttnModel, painted: Dataset) -> None:
    blind = color_model("blind")
    with torch.no_grad():
        blind.attention.key.weight.zero_()  # attends to everything alike
    report = evaluate(model, painted, other=blind, settings=FAST)
    figure = report.figure("grounding: phrases", "pointing game", "model")
    assert figure.other is not None
    assert figure.difference is not None
    assert figure.other.value == pytest.approx(1 / 35)
    assert figure.difference.value == pytest.approx(1 - 1 / 35)
    assert figure.difference.low > 0
    baseline = report.figure("grounding: phrases", "pointing game", "picture centre")
    assert baseline.other is None
    assert baseline.difference is None
    same = evaluate(model, painted, other=model, settings=FAST)
    assert {f.difference.value for f in same.figures if f.difference is not None} == {0.0}
    assert {f.difference.p_value for f in same.figures if f.difference is not None} == {1.0}


@pytest.mark.parametrize(
    "keep", [{"captions"}, {"boxes"}, {"phrases"}, {"hard_negatives"}], ids=lambda keep: min(keep)
)
def test_measures_what_there_is(model: XAttnModel, painted: Dataset, keep: set[str]) -> None:
    def only(record: Record) -> Record:
        return Record(record.id, record.image, **{k: getattr(record, k) for k in keep - {"hard_negatives"}})

    negatives = painted.hard_negatives if "hard_negatives" in keep else ()
    report = evaluate(
        model, Dataset("d", None, tuple(map(only, painted.records)), negatives), settings=FAST
    )
    groups = {figure.group for figure in report.figures}
    assert (
        groups
        == {
            "captions": {"text → image", "image → text", "match probability", "nothing matched"},
            "boxes": {"grounding: categories", "presence of categories"},
            "phrases": {"grounding: phrases", "right colour of eleven"},
            "hard_negatives": {"hard negatives"},
        }[min(keep)]
    )


def test_one_picture_alone(model: XAttnModel, painted: Dataset) -> None:
    report = evaluate(model, Dataset("d", None, painted.records[:1]), settings=FAST)
    assert value(report, "text → image", "recall@1", "two-stage") == 1
    assert "nothing matched" not in {figure.group for figure in report.figures}


def test_nothing_to_measure(model: XAttnModel, tmp_path: Path) -> None:
    record = Record("a", spot(tmp_path, "a", "red"))
    with pytest.raises(DataError, match="nothing to measure"):
        evaluate(model, Dataset("bare", None, (record,)), settings=FAST)
    with pytest.raises(DataError, match="can be read"):
        evaluate(model, Dataset("empty", None, ()), settings=FAST)


def test_pictures_that_cannot_be_read_are_left_out(model: XAttnModel, painted: Dataset) -> None:
    expected = evaluate(model, painted, settings=FAST)
    damaged = painted.records[0].image.with_name("damaged.png")
    damaged.write_bytes(painted.records[0].image.read_bytes()[:60])
    boxes = (NamedBox("red", (0, 0, 1, 1)),)
    bad = Record("bad", damaged, ("a red square",), boxes, origin="d.tar: bad.png")
    records = (*painted.records[:1], bad, *painted.records[1:])
    negatives = (*painted.hard_negatives, HardNegative("bad", "swap", "color", "red", "blue"))
    report = evaluate(model, Dataset("painted", None, records, negatives), settings=FAST)
    assert [str(skipped.path) for skipped in report.skipped] == ["d.tar: bad.png"]
    assert report.figures == expected.figures
    assert "Left out: 1 " in report.markdown()
    with pytest.raises(DataError, match="None of the 1 pictures"):
        evaluate(model, Dataset("bad", None, (bad,)), settings=FAST)


# --- the report -------------------------------------------------------------------------------------


def test_report_as_json_and_tables(model: XAttnModel, many: Dataset) -> None:
    report = evaluate(
        model, many, other=color_model("twin"), settings=Settings(threshold=0.0, num_resamples=50)
    )
    content = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert content["model"] == {"name": "colors", "fingerprint": model.fingerprint}
    assert content["other"]["name"] == "twin"
    assert content["settings"]["threshold"] == 0
    assert len(content["figures"]) == len(report.figures)
    # No search has a best match below 0: a precision of nothing.
    undefined = next(figure for figure in content["figures"] if figure["measure"] == "precision")
    assert undefined["value"] == {"value": None, "low": None, "high": None}

    recall = report.figure("text → image", "recall@5", "two-stage").value
    cell = f"{100 * recall.value:.1f} [{100 * recall.low:.1f}, {100 * recall.high:.1f}]"
    markdown = report.markdown()
    (row,) = [line for line in markdown.splitlines() if "text → image, recall@5 | two-stage" in line]
    assert cell in row
    assert "undefined" in markdown
    assert len({line.count("|") for line in markdown.splitlines() if "|" in line}) == 1
    output = io.StringIO()
    Console(file=output, width=250).print(report.table())
    assert cell in output.getvalue()
    assert "twin" in output.getvalue()


@pytest.mark.parametrize("other", [None, "twin"])
@pytest.mark.parametrize("width", [80, 100, 120])
def test_every_cell_of_the_table_is_shown_on_a_narrow_terminal(
    model: XAttnModel, many: Dataset, width: int, other: str | None
) -> None:
    second = None if other is None else color_model(other)
    report = evaluate(model, many, other=second, settings=FAST)
    table = report.table()
    output = io.StringIO()
    Console(file=output, width=width).print(table)
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    printed = Counter("".join(lines)) - Counter("─")
    for column in table.columns:
        for cell in column.cells:
            missing = Counter(str(cell).replace(" ", "")) - printed
            assert not missing, (column.header, cell)
            printed -= Counter(str(cell).replace(" ", ""))


def test_figures_of_few_cases_are_in_the_json_only(model: XAttnModel, painted: Dataset) -> None:
    report = evaluate(model, painted, settings=FAST)
    assert "Not shown:" in report.markdown()
    assert "swap" not in report.markdown()
    assert "swap, right of two" in report.to_json()
    with pytest.raises(KeyError, match="recall@1"):
        report.figure("text → image", "recall@3", "two-stage")
