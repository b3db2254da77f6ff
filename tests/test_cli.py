"""The commands as a person and a script meet them: output, messages, exit codes."""

import json
import os
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.color_model import color_model, paint
from xattn import __version__, cli, terminal
from xattn.cli import common
from xattn.engine import Engine

GRID = (5, 7)
SIZE = (100, 140)
RED = (1, 4)


@pytest.fixture(autouse=True)
def load_model(monkeypatch):
    """No command loads another model than the colour model, under the name it was asked for."""
    null_values = {"default": -1.0, "other": -0.8}
    monkeypatch.setattr("xattn.checkpoint.load_model", lambda name: color_model(name, null_values[name]))


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "my photos"
    (folder / "trip").mkdir(parents=True)
    paint(GRID, "blue", {RED: "red"}).save(folder / "spot.png")
    paint((7, 5), "green", {(6, 2): "yellow"}).save(folder / "trip" / "field.png")
    (folder / "text.jpg").write_text("no picture")
    monkeypatch.setenv("XATTN_INDEX", str(tmp_path / "index"))
    return folder


@pytest.fixture
def indexed(photos) -> Path:
    assert run("index", photos).exit_code == 0
    return photos


def run(*args: object):
    return CliRunner().invoke(cli.app, [str(arg) for arg in args])


def failed(result, *parts: str) -> None:
    """It ended with exit code 1 and a message on standard error that says all of this, no traceback."""
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("xattn: ")
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


# --- index ----------------------------------------------------------------------------------------------


def test_index_tells_what_it_did(photos, tmp_path):
    result = run("index", photos)
    assert result.exit_code == 0
    *skipped, counts, place = result.stdout.splitlines()
    assert len(skipped) == 1
    assert skipped[0].startswith(f"skipped {photos / 'text.jpg'}: ")
    assert "not a picture" in skipped[0]
    assert skipped[0].count("text.jpg") == 1
    assert counts.startswith("2 added, 1 skipped, in ")
    assert place == f"2 pictures can be found in the index at {tmp_path / 'index'}"


def test_index_again_reads_nothing_new(indexed):
    assert run("index", indexed).stdout.splitlines()[-2].startswith("2 unchanged, 1 skipped, in ")


def test_index_an_empty_folder(photos):
    (photos / "empty").mkdir()
    result = run("index", photos / "empty")
    assert result.exit_code == 0
    assert result.stdout.startswith("no pictures found, in ")


def test_index_option_and_home(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("index", photos, "--index", "~/elsewhere").exit_code == 0
    assert "index: " in run("info", "--index", tmp_path / "elsewhere").stdout
    assert not (tmp_path / "index").exists()


def test_index_shows_progress_as_lines_where_there_is_no_terminal(photos, monkeypatch):
    for name in ("LINE_SECONDS", "BURST_SECONDS", "FIRST_SECONDS"):
        monkeypatch.setattr(terminal, name, 0.0)
    first, *later = run("index", photos).stderr.splitlines()
    assert first == "indexing: 1 of 3", "one picture tells no pace"
    assert [line.split(",")[0] for line in later] == ["indexing: 2 of 3", "indexing: 3 of 3"]
    assert all(" pictures/s, " in line and line.endswith(" left") for line in later)


def test_index_interrupted(photos, monkeypatch):
    def add(engine, paths, *, progress, batch_size):
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "add", add)
    result = run("index", photos)
    assert result.exit_code == 130
    assert result.stderr == "Interrupted; 0 pictures can be found so far.\n"


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
    monkeypatch.setattr("xattn.checkpoint.load_model", lambda name: strict)
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


def is_changed(overlay: Path, picture: Path) -> bool:
    with Image.open(overlay) as drawn, Image.open(picture) as original:
        assert drawn.size == original.size
        difference = np.array(drawn.convert("RGB"), float) - np.array(original.convert("RGB"), float)
    return np.abs(difference).max() > 50  # JPEG alone changes less


# --- errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("search", "a dog"), ("info",), ("remove", "x.jpg"), ("serve",)])
def test_no_index(command, tmp_path):
    missing = tmp_path / "no such"
    failed(run(*command, "--index", missing), f"no index at {missing}", "xattn index DIR")
    assert not missing.exists()


def test_index_of_another_model(indexed):
    failed(run("search", "a dog", "--model", "other"), "'default'", "'other'")


def test_empty_query(indexed):
    failed(run("search", "  "), "empty")


def test_debug_shows_where_an_error_arose(indexed):
    result = run("--debug", "search", "  ")
    assert type(result.exception).__name__ == "QueryError"


def test_a_folder_that_cannot_be_written(indexed, tmp_path):
    (tmp_path / "file").touch()
    failed(run("search", "red", "--save-overlays", tmp_path / "file" / "below"), str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("index",), "DIR"),
        (("index", "no such folder"), "no such folder"),
        (("search", "red", "-k", "0"), "-k"),
        (("search",), "TEXT"),
        (("serve", "--port", "70000"), "--port"),
        (("ground", "{photos}/spot.png", "red", "-o", "map.txt"), ".png"),
        (("ground", "{photos}/spot.png", "red", "-o", "{photos}/none/map.png"), "there is no folder"),
        (("ground", "{photos}/spot.png", "red", "-o", "{photos}/spot.png"), "not overwritten"),
        (("evaluate", "--data", "{photos}", "--json", "{photos}/none/x.json"), "there is no folder"),
        (("serach", "red"), "serach"),
    ],
)
def test_usage_errors(photos, args, message):
    result = run(*(arg.format(photos=photos) for arg in args))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in " ".join(result.stderr.replace("│", " ").split())


# --- the other commands ---------------------------------------------------------------------------------


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


def test_info(indexed, tmp_path):
    shown = dict(line.split(": ", 1) for line in run("info").stdout.splitlines())
    assert shown["index"].strip() == str(tmp_path / "index")
    assert shown["pictures"].strip() == "2"
    assert shown["regions"].strip() == f"{2 * 35} of width 32"
    found = json.loads(run("info", "--json").stdout)
    assert found["num_pictures"] == 2
    assert found["model_name"] == "default"


def test_remove(indexed):
    result = run("remove", indexed / "trip", indexed / "unknown.jpg")
    assert result.stdout == "1 removed, 1 pictures remain in the index\n"
    assert (indexed / "trip" / "field.png").exists()
    assert len(run("search", "red").stdout.splitlines()) == 1


def test_serve(indexed, tmp_path, monkeypatch):
    calls = []
    page = types.SimpleNamespace(launch=lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setitem(sys.modules, "xattn.ui", page)
    assert run("serve", "--port", 8123).exit_code == 0
    assert calls == [
        ((tmp_path / "index", "default"), {"host": "127.0.0.1", "port": 8123, "open_browser": False})
    ]


@pytest.fixture
def captioned(tmp_path) -> Path:
    folder = tmp_path / "captioned"
    folder.mkdir()
    for color in ("red", "green", "blue", "yellow"):
        paint(GRID, "gray", {RED: color}).save(folder / f"{color}.png")
        (folder / f"{color}.txt").write_text(f"a {color} square\nsomething {color}\n")
    return folder


def test_evaluate(captioned, tmp_path):
    result = run("evaluate", "--data", captioned, "--json", tmp_path / "report.json")
    assert result.exit_code == 0
    assert "| --- |" in result.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["num_pictures"], report["num_captions"]) == (4, 8)
    assert report["other"] is None


def test_evaluate_against_another_model(captioned, tmp_path):
    run("evaluate", "--data", captioned, "--against", "other", "--json", tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["other"]["name"] == "other"


def test_embeddings_as_a_faiss_file(indexed, tmp_path):
    import faiss

    assert run("embeddings", tmp_path / "out.npy").exit_code == 0
    assert run("embeddings", tmp_path / "out.faiss").exit_code == 0
    flat, rows = faiss.read_index(str(tmp_path / "out.faiss")), np.load(tmp_path / "out.npy")
    assert flat.metric_type == faiss.METRIC_INNER_PRODUCT
    np.testing.assert_array_equal(flat.reconstruct_n(0, flat.ntotal), rows)
    paths = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(paths) == sorted(str(p) for p in indexed.rglob("*.png"))
    assert run("embeddings", tmp_path / "out.txt").exit_code == 2


# --- the program ----------------------------------------------------------------------------------------


def test_help_lists_the_commands_and_imports_nothing_heavy(tmp_path):
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "xattn", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    for command in ("index", "search", "ground", "info", "remove", "serve", "evaluate"):
        assert f" {command} " in result.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "numpy", "PIL", "faiss", "gradio", "textblob", "scipy"}


def test_version():
    result = run("--version")
    assert result.stdout == f"xattn {__version__}\n"


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="where Linux keeps a program's data")
@pytest.mark.parametrize(
    ("given", "expected"), [("/data", "/data"), ("relative", "~/.local/share"), ("", "~/.local/share")]
)
def test_where_the_index_is(given, expected, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", given)
    assert common.data_dir() == expected


def test_output_that_its_encoding_cannot_hold():
    code = (
        "from unittest import mock; from xattn import cli, terminal\n"
        "def app(**options): terminal.print_lines([[1, 'a\u6f22.jpg']])\n"
        "with mock.patch.object(cli, 'app', app): cli.main()"
    )
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    printed = subprocess.check_output([sys.executable, "-c", code], env=env)
    assert printed == b"1\ta\\u6f22.jpg" + os.linesep.encode()


def test_embeddings_are_written_with_their_paths(indexed, tmp_path):
    result = run("embeddings", tmp_path / "all.npy")
    assert result.exit_code == 0
    assert "2 embeddings" in result.stdout
    paths = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    vectors = np.load(tmp_path / "all.npy")
    model = color_model()
    for path, vector in zip(paths, vectors, strict=True):
        own = model.encode_images([Image.open(path)]).pooled[0].numpy()
        np.testing.assert_allclose(vector, own, atol=1e-6)
    failed_usage = run("embeddings", tmp_path / "all.txt")
    assert failed_usage.exit_code == 2
