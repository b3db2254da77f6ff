"""The commands that fill an index, tell of it, take out of it and export it."""

import json

import numpy as np
from PIL import Image

from tests.cli_runs import indexed_fixture, load_model_fixture, photos_fixture, run  # noqa: F401  fixtures
from tests.color_model import color_model
from xattn.cli import progress
from xattn.engine import Engine


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
        monkeypatch.setattr(progress, name, 0.0)
    first, *later = run("index", photos).stderr.splitlines()
    assert first == "indexing: 1 of 3", "one picture tells no pace"
    assert [line.split(",")[0] for line in later] == ["indexing: 2 of 3", "indexing: 3 of 3"]
    assert all(" pictures/s, " in line and line.endswith(" left") for line in later)


def test_index_interrupted(photos, monkeypatch):
    def add(engine, paths, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "add", add)
    result = run("index", photos)
    assert result.exit_code == 130
    assert result.stderr == "Interrupted; 0 pictures can be found so far.\n"


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


def test_embeddings_as_a_faiss_file(indexed, tmp_path):
    import faiss

    assert run("embeddings", tmp_path / "out.npy").exit_code == 0
    # The same paths beside it, which the first command wrote.
    assert run("embeddings", tmp_path / "out.faiss", "--force").exit_code == 0
    flat, rows = faiss.read_index(str(tmp_path / "out.faiss")), np.load(tmp_path / "out.npy")
    assert flat.metric_type == faiss.METRIC_INNER_PRODUCT
    np.testing.assert_array_equal(flat.reconstruct_n(0, flat.ntotal), rows)
    paths = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(paths) == sorted(str(p) for p in indexed.rglob("*.png"))
    assert run("embeddings", tmp_path / "out.txt").exit_code == 2


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


def test_the_limit_of_pixels_can_be_set(photos):
    refused = run("index", photos, "--max-pixels", 10)
    assert refused.exit_code == 0
    assert "--max-pixels" in refused.stdout
    assert "0 pictures can be found" in refused.stdout
    assert "3 skipped" not in run("index", photos, "--max-pixels", 10_000_000).stdout
