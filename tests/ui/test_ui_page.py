"""The page and the app that serves it, without a browser: messages, uploads, ports."""

import ast
import socket
import subprocess
import sys
from pathlib import Path

import gradio as gr
import pytest

from tests.ui_samples import model_fixture, renderer_fixture, samples_fixture  # noqa: F401  fixtures
from xattn.errors import QueryError, StoreError, XattnError
from xattn.service.search import Backend
from xattn.ui import launch
from xattn.ui.page import build
from xattn.ui.server import running
from xattn.ui.viewer import guarded

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("problem", "told"),
    [(QueryError("the query is empty"), "The query is empty"), (RuntimeError("secret"), "terminal")],
)
def test_problems_become_messages(problem, told, monkeypatch):
    warnings = []
    monkeypatch.setattr(gr, "Warning", lambda text, title: warnings.append(text))

    @guarded
    def handler() -> None:
        raise problem

    assert handler() == gr.skip()
    assert len(warnings) == 1
    assert told in warnings[0]
    assert "secret" not in warnings[0]


def test_uploads_reach_our_checks_unopened(samples, model, renderer, tmp_path):
    """Gradio's own preprocessing would open the file, and raise before any handler runs."""
    page = build(Backend(None, model, samples), renderer)
    (upload,) = [b for b in page.blocks.values() if isinstance(b, gr.Image) and b.elem_id == "upload"]
    fake = tmp_path / "fake.jpg"
    fake.write_text("not a picture")
    payload = upload.data_model(path=str(fake), orig_name="fake.jpg")
    assert upload.preprocess(payload) == str(fake)
    assert upload.preprocess(None) is None


def test_nothing_is_callable_from_outside_the_page(samples, model, renderer):
    page = build(Backend(None, model, samples), renderer)
    assert page.fns
    assert {fn.api_visibility for fn in page.fns.values()} == {"private"}


def test_launch_refuses_a_missing_index(tmp_path):
    with pytest.raises(StoreError, match="xattn index FOLDER"):
        launch(tmp_path / "missing")


def test_a_taken_port_is_told(samples, model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(XattnError, match=f"port {port} is taken"),
            running(Backend(None, model, samples), host="127.0.0.1", port=port),
        ):
            pass


def test_app_is_thin_and_helps_at_once():
    source = (ROOT / "app.py").read_text()
    assert len(source.splitlines()) < 50
    assert ast.get_docstring(ast.parse(source))
    help_text = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "app.py", "--help"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert "--index" in help_text.stdout
    assert "torch" not in help_text.stderr
    assert "gradio" not in help_text.stderr


def test_app_ends_with_a_message_instead_of_a_trace(tmp_path):
    ended = subprocess.run(
        [sys.executable, ROOT / "app.py", "--index", tmp_path / "missing"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "there is no index at" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_address_that_is_not_this_machines_is_told_as_such(tmp_path, monkeypatch):
    (tmp_path / "index").mkdir()
    elsewhere = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("203.0.113.7", 0))  # kept for documentation
    monkeypatch.setattr("xattn.ui.server.socket.getaddrinfo", lambda *_, **__: [elsewhere])
    with pytest.raises(XattnError, match=r"cannot listen on 203\.0\.113\.7"):
        launch(tmp_path / "index", host="203.0.113.7")
