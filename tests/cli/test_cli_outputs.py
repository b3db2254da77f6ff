"""Outputs: nothing of a person's is replaced, and what cannot be written is said before the work."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli_runs import indexed_fixture, photos_fixture, run  # noqa: F401  fixtures
from xattn.cli.outputs import MAX_NAME_BYTES, free_name
from xattn.cli.terminal import print_lines

NOTES = b"a person's own"


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (("embeddings", "OUT/a.npy"), ("a.npy", "a.jsonl")),
        (("embeddings", "OUT/a.faiss"), ("a.faiss", "a.jsonl")),
        (("evaluate", "--data", "OUT", "--output", "OUT/a.json"), ("a.json",)),
        (("export", "OUT"), ("notes.txt", "config.json")),
    ],
)
def test_files_of_a_person_are_left_as_they_are(
    indexed: object, tmp_path: Path, command: tuple[str, ...], names: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in names:
        (out / name).write_bytes(NOTES)
        given = [part.replace("OUT", str(out)) for part in command]
        result = run(*given)
        assert result.exit_code == 2, result.stderr
        assert name in result.stderr.replace("\n", "") or "left as it is" in result.stderr
        assert (out / name).read_bytes() == NOTES
        (out / name).unlink()
    assert not os.listdir(out)


def test_a_map_replaces_a_file_by_force_only(photos: Path, tmp_path: Path) -> None:
    picture, out = next(iter(sorted(photos.iterdir()))), tmp_path / "map.jpg"
    out.write_bytes(NOTES)
    assert run("ground", picture, "red", "-o", out).exit_code == 2
    assert out.read_bytes() == NOTES
    assert run("ground", picture, "red", "-o", out, "--force").exit_code == 0
    assert out.read_bytes() != NOTES
    before = picture.read_bytes()
    assert run("ground", picture, "red", "-o", picture, "--force").exit_code == 2
    assert picture.read_bytes() == before


def test_overlays_take_names_that_are_free(indexed: object, tmp_path: Path) -> None:
    out = tmp_path / "best"
    first = run("search", "red", "--save-overlays", out)
    assert first.exit_code == 0
    names = sorted(os.listdir(out))
    (out / names[0]).write_bytes(NOTES)
    assert run("search", "red", "--save-overlays", out).exit_code == 0
    assert (out / names[0]).read_bytes() == NOTES
    assert len(os.listdir(out)) == 2 * len(names)


@pytest.mark.parametrize("command", [("embeddings", "OUT"), ("ground", "IN", "red", "-o", "OUT")])
@pytest.mark.parametrize("place", ["folder", "missing/a"])
def test_an_output_that_cannot_be_written_is_said_before_the_work(
    photos: Path, tmp_path: Path, command: tuple[str, ...], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xattn.model.checkpoint.load_model", lambda *_: pytest.fail("a model was loaded"))
    suffix = ".npy" if command[0] == "embeddings" else ".jpg"
    out = tmp_path / (place + suffix)
    if place == "folder":
        out.mkdir()
    picture = next(iter(sorted(photos.iterdir())))
    given = [part.replace("OUT", str(out)).replace("IN", str(picture)) for part in command]
    result = run(*given, "--index", tmp_path) if command[0] == "embeddings" else run(*given)
    assert result.exit_code == 2


@pytest.mark.parametrize(
    "command",
    [("remove", ""), ("index", ""), ("search", ""), ("info", "--index", ""), ("info", "--index=")],
)
def test_an_empty_argument_is_a_mistake(indexed: object, command: tuple[str, ...]) -> None:
    result = run(*command)
    assert result.exit_code == 2
    assert "empty" in result.stderr
    assert json.loads(run("info", "--json").stdout)["num_pictures"] > 0


@given(
    stem=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="/\0")),
    suffix=st.just(".jpg"),
)
def test_derived_names_fit_every_file_system(
    tmp_path_factory: pytest.TempPathFactory, stem: str, suffix: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = free_name(folder, stem, suffix)
    assert len(os.fsencode(path.name)) <= MAX_NAME_BYTES + 10
    assert path.parent == folder
    assert os.fsdecode(os.fsencode(path.name)) == path.name


@pytest.mark.parametrize("name", ["a\tb", "a\nb", '"a', "a\x1b[31m", "a\u2028b"])
def test_a_field_stays_a_field(capsys: pytest.CaptureFixture[str], name: str) -> None:
    print_lines([(1, name, "plain ü")])
    (line,) = capsys.readouterr().out.splitlines()
    rank, field, plain = line.split("\t")
    assert (rank, json.loads(field), plain) == ("1", name, "plain ü")


def test_json_is_one_object_of_every_command(photos: Path, tmp_path: Path) -> None:
    def printed(*command: object) -> dict[str, Any]:
        content = json.loads(run(*command, "--json").stdout)
        assert isinstance(content, dict)
        return content

    spot, field = photos / "spot.png", photos / "trip" / "field.png"
    added = printed("index", photos)
    assert sorted(added["added"]) == sorted(map(str, (spot, field)))
    assert [entry["path"] for entry in added["skipped"]] == [str(photos / "text.jpg")]
    renamed = field.rename(field.with_name("meadow.png"))
    assert printed("index", photos)["moved"] == [{"from": str(field), "to": str(renamed)}]
    assert printed("remove", spot) == {"removed": [str(spot)], "num_pictures": 1}
    spot.with_suffix(".txt").write_text("a red square")
    checked = printed("data", "check", photos)
    assert checked["splits"][0]["num_captions"] == 1
    assert checked["is_usable"] is False
