"""`search` and `ground` as a person and a script meet them: lines, JSON, overlays."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli_runs import GRID, RED, SIZE, failed, indexed_fixture, load_model_fixture, photos_fixture, run  # noqa: F401  fixtures
from tests.color_model import color_model, paint
from xattn.cli import terminal


def is_changed(overlay: Path, picture: Path) -> bool:
    with Image.open(overlay) as drawn, Image.open(picture) as original:
        assert drawn.size == original.size
        difference = np.array(drawn.convert("RGB"), float) - np.array(original.convert("RGB"), float)
    return np.abs(difference).max() > 50  # JPEG alone changes less


# --- search ---------------------------------------------------------------------------------------------


def test_search_into_a_pipe(indexed):
    result = run("search", "a red square", "-k", 1)
    assert result.exit_code == 0
    assert result.stderr == ""
    (line,) = result.stdout.splitlines()
    rank, probability, score, path = line.split("\t")
    assert rank == "1"
    assert float(probability) == pytest.approx(1 / (1 + np.exp(-float(score))), abs=1e-3)
    assert path == str(indexed / "spot.png")


def test_search_json(indexed):
    result = run("search", "[a red square] and [a blue wall]", "--json")
    found = json.loads(result.stdout)
    assert found["query"] == "[a red square] and [a blue wall]"
    assert [hit["rank"] for hit in found["hits"]] == [1, 2]
    first = found["hits"][0]
    assert Path(first["path"]).name == "spot.png"
    assert (first["height"], first["width"]) == SIZE
    assert first["whole"]["score"] == first["score"]
    assert [part["text"] for part in first["phrases"]] == ["a red square", "a blue wall"]
    for part in (first["whole"], *first["phrases"]):
        weights = np.array(part["weights"])
        assert weights.shape == GRID
        assert weights.sum() + part["null_weight"] == pytest.approx(1, abs=1e-5)
        addends = np.array(part["contributions"]).sum() + sum(part["rest"].values())
        assert addends == pytest.approx(part["score"], abs=1e-4)
    red = np.array(first["phrases"][0]["weights"])
    assert np.unravel_index(red.argmax(), red.shape) == RED


def test_search_at_a_terminal(indexed, monkeypatch):
    monkeypatch.setattr(terminal, "is_interactive", lambda: True)
    lines = run("search", "[a red square] and [a blue wall]").stdout.splitlines()
    assert lines[0].split()[0] == "1"
    assert lines[0].endswith(str(indexed / "spot.png"))
    assert "a red square 8" in lines[1]  # so many per cent
    assert ", a blue wall " in lines[1]


def test_search_says_that_it_probably_found_nothing(photos, monkeypatch):
    strict = color_model("default")
    strict.calibration = replace(strict.calibration, nothing_below=0.7)
    monkeypatch.setattr("xattn.model.checkpoint.load_model", lambda name: strict)
    run("index", photos)
    assert run("search", "a red square").stderr == ""
    doubted = run("search", "a magenta square")
    assert doubted.stderr.startswith("Probably nothing found: a find has 70% or more, the best of these ")
    assert len(doubted.stdout.splitlines()) == 2, "the nearest are listed all the same"


def test_names_that_could_steer_the_terminal(photos, monkeypatch):
    path = photos / "\x1b[2Jevil.png"
    paint(GRID, "cyan").save(path)
    (photos / "\x1b[2Jbroken.png").write_bytes(b"")
    assert f"skipped {photos}{os.sep}\ufffd[2Jbroken.png: " in run("index", photos).stdout
    assert json.loads(run("search", "cyan", "--json").stdout)["hits"][0]["path"] == str(path)
    monkeypatch.setattr(terminal, "is_interactive", lambda: True)
    shown = run("search", "cyan").stdout
    assert "\x1b" not in shown
    assert f"{os.sep}\ufffd[2Jevil.png" in shown


def test_search_saves_overlays(indexed, tmp_path):
    result = run("search", "a red square", "--save-overlays", tmp_path / "new" / "overlays")
    assert result.exit_code == 0
    saved = sorted((tmp_path / "new" / "overlays").iterdir())
    assert [path.name for path in saved] == ["1-spot.jpg", "2-field.jpg"]
    assert is_changed(saved[0], indexed / "spot.png")


def test_search_without_the_picture_file(indexed, tmp_path):
    (indexed / "spot.png").unlink()
    result = run("search", "a red square", "--save-overlays", tmp_path / "overlays")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"no overlay of {indexed / 'spot.png'}: ")
    assert [path.name for path in (tmp_path / "overlays").iterdir()] == ["2-field.jpg"]
    assert len(result.stdout.splitlines()) == 2


def test_search_an_empty_index(tmp_path, photos):
    (photos / "empty").mkdir()
    run("index", photos / "empty")
    result = run("search", "a dog", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["hits"] == []
    assert "xattn index DIR" in result.stderr


# --- ground ---------------------------------------------------------------------------------------------


def test_ground_saves_a_map(photos, tmp_path):
    result = run("ground", photos / "spot.png", "a red square", "-o", tmp_path / "map.png")
    assert result.exit_code == 0
    assert is_changed(tmp_path / "map.png", photos / "spot.png")
    text, probability, score, box = result.stdout.rstrip("\n").split("\t")
    assert text == "a red square"
    assert float(probability) > 0.8
    assert float(score) > 0
    x1, y1, x2, y2 = map(float, box.split(", "))
    assert x1 <= 90 <= x2
    assert y1 <= 30 <= y2
    assert not (tmp_path / "index").exists()


def test_ground_json(photos):
    result = run("ground", photos / "spot.png", "[a red square] and [a blue wall]", "--json")
    found = json.loads(result.stdout)
    assert found["path"] == str(photos / "spot.png")
    assert [(part["text"], part["source"]) for part in found["groundings"]] == [
        ("a red square and a blue wall", "whole"),
        ("a red square", "bracket"),
        ("a blue wall", "bracket"),
    ]
    box = found["groundings"][1]["boxes"][0]
    assert set(box) == {"box", "weight"}
    assert 0 < box["weight"] <= 1


def test_ground_at_a_terminal(photos, monkeypatch):
    monkeypatch.setattr(terminal, "is_interactive", lambda: True)
    shown = run("ground", photos / "spot.png", "[a red square] and [a blue wall]").stdout
    assert shown.splitlines()[0].split()[:4] == ["phrase", "match", "score", "nowhere"]
    assert len([line for line in shown.splitlines() if "a red square" in line]) == 2


def test_ground_what_is_no_picture(photos):
    failed(run("ground", photos / "text.jpg", "red"), f"{photos / 'text.jpg'}: ", "not a picture")
