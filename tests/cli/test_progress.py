"""The pace that progress tells: not of what was done before, and not of the first moment; and what progress
leaves visible of what others draw."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from xattn.cli import progress, terminal
from xattn.cli.progress import _Pace
from xattn.model.checkpoint import PRETRAINED_PREFIXES


def test_what_was_done_before_is_not_counted() -> None:
    pace = _Pace()
    burst = [pace.at(done, 0.0001 * done) for done in range(1, 3000)]  # kept by an earlier run
    assert set(burst) == {None}
    told = [pace.at(3000 + step, 0.3 + 0.5 * step) for step in range(1, 21)]
    assert told[0] is None, "nothing is known yet"
    assert told[-1] == pytest.approx(2.0, rel=0.1)
    assert max(value for value in told if value is not None) < 2.5


def test_the_pace_is_that_of_late() -> None:
    pace = _Pace()
    for second in range(100):
        pace.at(10 * second, float(second))
    found = [pace.at(1000 + step, 100.0 + step) for step in range(60)]
    assert found[-1] == pytest.approx(1.0, rel=0.05)


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What stands on standard error, a terminal. For use inside a test: pytest sets its own before it."""
    drawn = io.StringIO()
    monkeypatch.setattr(sys, "stderr", drawn)
    monkeypatch.setattr(terminal, "err", Console(stderr=True, force_terminal=True, highlight=False))
    return drawn


def download(screen: io.StringIO) -> bool:
    """Whether a bar of a download, which ends in no new line, is seen while it is drawn."""
    sys.stderr.write("model.safetensors: 42%\r")
    return "42%" in screen.getvalue()


def test_bars_of_downloads_are_seen_while_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal_of(monkeypatch)
    assert progress.DOWNLOADED == PRETRAINED_PREFIXES
    with progress.loading("openclip:ViT-B-16/openai"):
        assert download(screen)
    assert "loading openclip:ViT-B-16/openai\n" in screen.getvalue()
    with progress.loading("my-model", "hf-hub:org/name"):
        assert download(screen)
    with progress.loading("default"):
        seen = screen.getvalue().count("42%")
        download(screen)
        sys.stderr.write("\n")
        assert screen.getvalue().count("42%") == seen, "a spinner holds back what ends in no new line"


def test_a_bar_that_waits_hides_nothing_before_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal_of(monkeypatch)
    with progress.Bar("reading", at_once=False) as bar:
        assert download(screen)
        bar.update("training", 1, 2)
        assert "training" in screen.getvalue()
