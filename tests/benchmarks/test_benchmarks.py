"""The benchmarks' own bookkeeping: verdicts, turns, results on disk, and which hits are marked as right."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import collapse, contact_sheet, pairs, record, sample_queries
from benchmarks.contact_sheet import RIGHT, Row
from benchmarks.loss_memory import sampled_loss
from benchmarks.record import Figure, Result
from benchmarks.timing import in_turns, median_ratio, milliseconds
from tests.color_model import color_model, paint
from tests.tiny_default import tiny_default
from xattn.attention import CrossAttention
from xattn.engine import open_index
from xattn.losses import Pairs, all_pairs_loss
from xattn.model.checkpoint import save_model
from xattn.service.samples import Samples


@pytest.mark.parametrize(
    ("figure", "met"),
    [
        (Figure("a", 120.0, "ms", at_most=120), True),
        (Figure("a", 120.1, "ms", at_most=120), False),
        (Figure("a", 0.85, at_least=0.85), True),
        (Figure("a", 0.849, at_least=0.85), False),
        (Figure("a", 3.0), None),
    ],
)
def test_a_figure_says_whether_it_meets_its_target(figure: Figure, met: bool | None) -> None:
    assert figure.met is met


def test_tasks_take_turns_and_warm_up_is_not_counted() -> None:
    calls: list[str] = []
    seconds = in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, warm_up=1)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_ratios_are_taken_within_a_round() -> None:
    slow, fast = np.array([2.0, 40.0, 6.0]), np.array([1.0, 10.0, 2.0])
    assert median_ratio(slow, fast) == 3.0
    assert milliseconds(slow) == 6000.0


def test_a_run_writes_what_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.demo", "--out", str(tmp_path / "new")])
    figures = [Figure("speed", 12345.678, "pictures/s", at_least=20000)]
    with pytest.raises(SystemExit) as ended:
        record.main("demo", "Nothing.", lambda out: Result(figures, {"pictures": 3}))
    assert not ended.value.code
    found = json.loads((tmp_path / "new" / "demo.json").read_text(encoding="utf-8"))
    assert found["command"].startswith("python -m benchmarks.demo --out ")
    assert found["pictures"] == 3
    assert found["figures"] == [
        {"name": "speed", "value": 12350.0, "unit": "pictures/s", "target": "≥ 20000", "met": False}
    ]
    assert {"commit", "date", "device", "other_programs"} <= set(found)
    assert "MISSED" in capsys.readouterr().out


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Row]:
    photos = tmp_path_factory.mktemp("photos")
    paint((5, 7), "green", {(1, 4): "red"}).resize((70, 50)).save(photos / "red.png")
    paint((7, 5), "green", {(2, 2): "blue"}).resize((50, 70)).save(photos / "blue.png")
    with open_index(tmp_path_factory.mktemp("index"), color_model()) as engine:
        engine.add(photos)
        return [
            Row("red", engine.search("red"), {"red.png"}),
            Row("blue", engine.search("blue"), {"red.png"}),
            Row("red", engine.search("red"), set()),
        ]


def test_the_table_counts_what_is_right(rows: Sequence[Row]) -> None:
    assert [sample_queries.first_right(row) for row in rows] == [1, 2, None]
    table = sample_queries.table(rows)
    assert "| red | red.png | yes | 1 |" in table
    assert "| blue | blue.png | no | 2 |" in table
    assert "| red | red.png | no | beyond 2 |" in table
    assert "first for 1 of 3 queries" in table


def test_only_right_hits_are_framed(rows: Sequence[Row]) -> None:
    def corners(row: Row) -> list[bool]:
        sheet = np.asarray(contact_sheet.draw([row], 2))
        y = contact_sheet.LEGEND + contact_sheet.HEADER
        line = (sheet[y, contact_sheet.MARGIN :] == RIGHT).all(-1)
        second = next(x for x in range(len(line)) if (sheet[y, contact_sheet.MARGIN + x] == 255).all())
        return [bool(line[0]), bool(line[second + contact_sheet.GAP])]

    assert corners(rows[0]) == [True, False]
    assert corners(rows[1]) == [False, True]
    assert corners(rows[2]) == [False, False]


def test_every_photo_called_right_is_in_the_collection() -> None:
    entries = json.loads((Samples().folder / "queries.json").read_text(encoding="utf-8"))
    names = {path.name for path in Samples().photos.iterdir()}
    assert len(entries) == 20
    for entry in entries:
        assert entry["relevant"]
        assert set(entry["relevant"]) <= names


def test_a_result_names_the_script_that_was_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--pictures", "4"])
    record.keep("pairs_part", {}, tmp_path, "abc", script="pairs")
    kept = json.loads((tmp_path / "pairs_part.json").read_text(encoding="utf-8"))
    assert kept["command"] == "python -m benchmarks.pairs --pictures 4"


def test_sampled_pairs_are_all_pairs_where_each_picture_has_one_caption() -> None:
    torch.manual_seed(0)
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[1, 3:] = False
    unit = torch.nn.functional.normalize
    regions, pooled, texts = torch.randn(5, 6, 8), unit(torch.randn(5, 8)), unit(torch.randn(5, 8))
    given = Pairs(regions, pooled, texts, torch.eye(5, dtype=torch.bool), mask)
    attention, scales, biases = CrossAttention(8, 2), torch.tensor([4.0, 7.0]), torch.tensor([-2.0, -3.0])
    exact = all_pairs_loss(attention, given, scales, biases).total
    torch.testing.assert_close(sampled_loss(attention, given, scales, biases), exact)


def test_pairs_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both losses train, on the same batches, and what they come to is told."""
    lines = []
    for number in range(9):
        name = f"{number}.png"
        paint((5, 7), "green", {(1, number % 7): "red"}).resize((70, 50)).save(tmp_path / name)
        captions = [f"{word} {number}" for word in ("red", "a red cell", "picture", "column")]
        split = {"id": number, "image": name, "split": "train" if number < 6 else "dev"}
        lines.append(json.dumps({**split, "captions": captions, "boxes": [], "phrases": []}))
    (tmp_path / "records.jsonl").write_text("\n".join(lines), encoding="utf-8")
    start = tmp_path / "start"
    save_model(
        tiny_default(["red 1", "a red cell 2", "picture 3", "column 4"]), start, "# tiny\n", quantized=False
    )
    given = [
        "--data",
        str(tmp_path),
        "--model",
        str(start),
        "--smoke",
        "--batch-size",
        "4",
        "--out",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", ["pairs", *given])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    # A clock that only knows steps: they take 0.25 and 0.5 seconds of the 1.2 that each loss has.
    ticks = itertools.accumulate(itertools.cycle([0.0, 0.25, 0.0, 0.5]))
    clock = SimpleNamespace(process_time=lambda: next(ticks), perf_counter=time.perf_counter)
    monkeypatch.setattr(pairs, "time", clock)
    with pytest.raises(SystemExit) as ended:
        pairs.app()
    assert not ended.value.code
    found = json.loads((tmp_path / "pairs.json").read_text(encoding="utf-8"))
    values = {figure["name"]: figure["value"] for figure in found["figures"]}
    assert min(values["all pairs: steps"], values["sampled: steps"]) >= 2
    assert values["all pairs: processor time"] > 0
    difference = values["all pairs: dev recall@1"] - values["sampled: dev recall@1"]
    assert values["all pairs less sampled"] == pytest.approx(difference, abs=0.1)
    assert 0 < values["p of all pairs and sampled being alike"] <= 1


def test_a_run_that_ended_early_for_another_reason_is_no_collapse() -> None:
    start = {"step": 0, "recall_1": 0.1, "recall_5": 0.4, "recall_10": 0.6, "mean_rank": 0.1}
    start |= {"most_first": 0.1, "num_pictures": 27}
    worse = {**start, "step": 9, "recall_5": 0.3, "mean_rank": 0.2, "stopped": "no better recall"}
    assert collapse.figures("run", [start, worse], False)[0].met
    broken = {**worse, "recall_5": 0.2, "mean_rank": 0.5, "fault": "the model broke", "stopped": "…"}
    verdicts = {breaks: collapse.figures("run", [start, broken], breaks)[0].met for breaks in (True, False)}
    assert verdicts == {True: True, False: False}
