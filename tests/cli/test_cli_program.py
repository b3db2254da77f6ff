"""The program around its commands: errors, exit codes, help, encodings; and `serve` and `evaluate`."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from tests.cli_runs import GRID, RED, failed, indexed_fixture, load_model_fixture, photos_fixture, run  # noqa: F401  fixtures
from tests.color_model import paint
from xattn import __version__
from xattn.files import user_data_dir

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
        (("evaluate", "--data", "{photos}", "--output", "{photos}/none/x.json"), "there is no folder"),
        (("serach", "red"), "serach"),
    ],
)
def test_usage_errors(photos, args, message):
    result = run(*(arg.format(photos=photos) for arg in args))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in " ".join(result.stderr.replace("│", " ").split())


# --- serve and evaluate ---------------------------------------------------------------------------------


def test_serve(indexed, tmp_path, monkeypatch):
    calls = []
    page = types.SimpleNamespace(launch=lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setitem(sys.modules, "xattn.ui", page)
    assert run("serve", "--port", 8123).exit_code == 0
    ((given, options),) = calls
    assert given == (tmp_path / "index", "default")
    assert options.pop("announce")
    assert options.pop("report")
    assert options == {"host": "127.0.0.1", "port": 8123, "open_browser": False}


@pytest.fixture
def captioned(tmp_path) -> Path:
    folder = tmp_path / "captioned"
    folder.mkdir()
    for color in ("red", "green", "blue", "yellow"):
        paint(GRID, "gray", {RED: color}).save(folder / f"{color}.png")
        (folder / f"{color}.txt").write_text(f"a {color} square\nsomething {color}\n")
    return folder


def test_evaluate(captioned, tmp_path):
    result = run("evaluate", "--data", captioned, "--output", tmp_path / "report.json")
    assert result.exit_code == 0
    assert "| --- |" in result.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["num_pictures"], report["num_captions"]) == (4, 8)
    assert report["other"] is None


def test_evaluate_against_another_model(captioned, tmp_path):
    run("evaluate", "--data", captioned, "--against", "other", "--output", tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["other"]["name"] == "other"


def test_evaluate_as_json(captioned):
    assert json.loads(run("evaluate", "--data", captioned, "--json").stdout)["num_pictures"] == 4


@pytest.mark.parametrize(("options", "expected"), [((), ""), (("--json",), '{"models": []}\n')])
def test_models_of_which_none_matches(options, expected):
    result = run("models", "zzz", *options)
    assert result.exit_code == 1
    assert result.stdout == expected
    assert "holds 'zzz'" in result.stderr


# --- the program ----------------------------------------------------------------------------------------


HEAVY = {"torch", "numpy", "PIL", "faiss", "gradio", "open_clip", "textblob", "scipy"}
COMMANDS = ["index", "search", "ground", "info", "remove", "serve", "evaluate", "models", "export"]


@pytest.mark.parametrize("command", ["", *COMMANDS, "embeddings", "train", "data check"])
def test_help_imports_nothing_heavy(command):
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "xattn", *command.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert "--help" in result.stdout
    if not command:
        for name in ("index", "search", "ground", "info", "remove", "serve", "evaluate"):
            assert f" {name} " in result.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & HEAVY


@pytest.mark.parametrize("name", ["openclip:ViT-B-32/laion2b_s34b_b79k", "hf-hub:laion/CLIP-ViT-B-32"])
def test_a_model_that_would_be_downloaded_without_a_network(name, tmp_path):
    paint(GRID, "blue", {}).save(tmp_path / "a.png")
    hub = "http://127.0.0.1:9"  # nothing listens there
    result = subprocess.run(
        [sys.executable, "-m", "xattn", "ground", tmp_path / "a.png", "a dog", "--model", name],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)},
    )
    assert result.returncode == 1
    message = result.stderr.strip()
    assert len(message.splitlines()) == 1  # none of a retry
    assert message.startswith(f"xattn: {name.partition(':')[2]} is not on this machine")
    assert hub in message


def test_version():
    result = run("--version")
    assert result.stdout == f"xattn {__version__}\n"


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="where Linux keeps a program's data")
@pytest.mark.parametrize(
    ("given", "expected"),
    [("/data", "/data"), ("relative", "~/.local/share"), ("", "~/.local/share"), (None, "~/.local/share")],
)
def test_where_the_index_is(given, expected, monkeypatch):
    if given is None:
        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_DATA_HOME", given)
    assert user_data_dir().expanduser() == Path(expected, "xattn").expanduser()


POSIX = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are Unicode there in any locale")
@pytest.mark.parametrize("name", ["café am Meer.jpg", "猫.jpg", "\U0001f408.jpg"])
def test_names_in_utf8_are_read_in_a_posix_locale(name, tmp_path):
    code = (
        "import sys; from xattn.cli.startup import ensure_utf8_names\n"
        "ensure_utf8_names(); print(ascii(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, name]
    env = {**os.environ, **POSIX}
    assert subprocess.check_output(command, env=env, text=True).strip() == ascii(name)


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be deleted there")
@pytest.mark.parametrize(
    "command", [("info",), ("models",), ("search", "a dog", "--index", "/x"), ("data", "check", "x")]
)
def test_a_deleted_working_directory_is_told(command, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    result = run(*command)
    assert result.exit_code == 1
    assert "working directory no longer exists" in result.stderr


def test_output_that_its_encoding_cannot_hold():
    code = (
        "from unittest import mock; from xattn import cli\n"
        "from xattn.cli import terminal\n"
        "def app(**options): terminal.print_lines([[1, 'a\u6f22.jpg']])\n"
        "with mock.patch.object(cli, 'app', app): cli.main()"
    )
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    printed = subprocess.check_output([sys.executable, "-c", code], env=env)
    assert printed == b"1\ta\\u6f22.jpg" + os.linesep.encode()
