"""Commands run in this process, on a folder of painted photos, with the colour model."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.color_model import color_model, paint
from xattn import cli

GRID = (5, 7)
SIZE = (100, 140)
RED = (1, 4)


@pytest.fixture(name="load_model", autouse=True)
def load_model_fixture(monkeypatch):
    """No command loads another model than the colour model, under the name it was asked for.

    In every test of a file that imports this.
    """
    null_values = {"default": -1.0, "other": -0.8}
    monkeypatch.setattr(
        "xattn.model.checkpoint.load_model", lambda name: color_model(name, null_values[name])
    )


@pytest.fixture(name="photos")
def photos_fixture(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "my photos"
    (folder / "trip").mkdir(parents=True)
    paint(GRID, "blue", {RED: "red"}).save(folder / "spot.png")
    paint((7, 5), "green", {(6, 2): "yellow"}).save(folder / "trip" / "field.png")
    (folder / "text.jpg").write_text("no picture")
    monkeypatch.setenv("XATTN_INDEX", str(tmp_path / "index"))
    return folder


@pytest.fixture(name="indexed")
def indexed_fixture(photos) -> Path:
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
