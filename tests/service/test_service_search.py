"""The engine behind the page: what it prepares, indexes once, waits for and refuses."""

import threading
import time
from pathlib import Path

import pytest

from tests.color_model import color_model
from tests.ui_samples import model_fixture, samples_fixture  # noqa: F401  fixtures
from xattn.engine import open_index
from xattn.service.samples import Samples
from xattn.service.search import Backend, NotReady, Status


def prepared(backend: Backend) -> Backend:
    backend.start()
    assert backend._thread is not None
    backend._thread.join(timeout=60)
    return backend


def test_samples_are_indexed_once(samples, monkeypatch):
    encoded = []
    model = color_model()
    encode = model.encode_frames
    monkeypatch.setattr(
        model, "encode_frames", lambda frames: encoded.append(len(frames)) or encode(frames)
    )
    seen: list[Status] = []
    first = Backend(None, model, samples)
    first.start(seen.append)
    first._thread.join(60)
    assert seen[-1].stage == "ready"
    assert [status.done for status in seen if status.total] == [1, 2, 3]
    assert sum(encoded) == 3
    assert first.search("a red spot", 1)[0].path == samples.photos / "a.png"
    first.close()

    second = prepared(Backend(None, model, samples))
    assert second.num_pictures() == 3
    assert sum(encoded) == 3
    second.close()


def test_another_model_gets_an_index_of_its_own(samples, model):
    prepared(Backend(None, model, samples)).close()
    other = prepared(Backend(None, color_model(null_value=-0.8), samples))
    assert other.status.stage == "ready"
    assert other.num_pictures() == 3
    other.close()
    assert len(list(samples.index_root.iterdir())) == 2


def test_an_unusable_index_of_the_samples_is_made_again(samples, model):
    index_dir = samples.index_dir(model.feature_fingerprint)
    open_index(index_dir, color_model(null_value=-0.8)).close()  # IndexMismatch for `model`
    backend = prepared(Backend(None, model, samples))
    assert backend.num_pictures() == 3
    backend.close()


def test_an_index_of_another_model_is_refused_and_kept(tmp_path, model, samples):
    index_dir = tmp_path / "own"
    with open_index(index_dir, color_model(null_value=-0.8)) as engine:
        engine.add(samples.photos)
    backend = prepared(Backend(index_dir, model))
    assert backend.status.stage == "failed"
    with pytest.raises(NotReady, match="model"):
        backend.search("red", 1)
    backend.close()
    with open_index(index_dir, color_model(null_value=-0.8)) as engine:
        assert len(engine) == 3


def test_missing_samples_and_models_are_told(tmp_path, model):
    backend = prepared(Backend(None, model, Samples(tmp_path / "none", tmp_path / "cache")))
    assert "xattn index FOLDER" in backend.status.message
    backend = prepared(Backend(None, str(tmp_path / "no-model")))
    assert backend.status.stage == "failed"
    assert "no-model" in backend.status.message


def test_before_it_is_ready_it_says_so(samples, model):
    with pytest.raises(NotReady, match="Loading the model"):
        Backend(None, model, samples).search("red", 1)


def test_closing_stops_the_indexing_and_keeps_what_was_done(samples):
    model = color_model()
    backend = Backend(None, model, samples)
    reached = threading.Event()

    def stop_at_first(status: Status) -> None:
        if status.total and not reached.is_set():
            reached.set()
            backend._stop.wait(10)

    backend.start(stop_at_first)
    assert reached.wait(30)
    backend.close()
    assert not backend._thread.is_alive()
    again = prepared(Backend(None, model, samples))
    assert again.num_pictures() == 3
    again.close()


def test_calls_wait_for_their_turn(samples, model, monkeypatch):
    backend = prepared(Backend(None, model, samples))
    busy, most = [], []
    search = backend._engine.search

    def slow(text: str, k: int):
        busy.append(text)
        most.append(len(busy))
        time.sleep(0.01)
        hits = search(text, k)
        busy.remove(text)
        return hits

    monkeypatch.setattr(backend._engine, "search", slow)
    colors, found = ["red", "green", "gray", "yellow"] * 2, {}
    threads = [
        threading.Thread(target=lambda i=i, c=c: found.update({i: backend.search(c, 1)[0].path.name}))
        for i, c in enumerate(colors)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert [found[i] for i in range(8)] == ["a.png", "b.png", "c.png", "b.png"] * 2
    backend.close()


def test_real_samples_have_credits_and_queries():
    samples = Samples()
    photos = sorted(file.name for file in samples.photos.iterdir())
    assert sorted(samples.credits) == photos
    assert all(c.photo_page.startswith("https://") for c in samples.credits.values())
    assert len(samples.queries) >= 8
    assert samples.credit(samples.photos / photos[0]) == samples.credits[photos[0]]
    assert samples.credit(Path("/elsewhere") / photos[0]) is None


def test_closed_during_a_slow_load_it_stays_closed(model, samples, monkeypatch):
    loading, go_on = threading.Event(), threading.Event()

    def slow(name):
        loading.set()
        assert go_on.wait(10)
        return model

    monkeypatch.setattr("xattn.service.search.load_model", slow)
    monkeypatch.setattr("xattn.service.search.JOIN_SECONDS", 0.01)
    backend = Backend(None, "slow", samples)
    seen = []
    backend.start(seen.append)
    assert loading.wait(10)
    backend.close()
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "xattn-prepare":
            thread.join(10)
    assert backend.status.stage == "failed"
    assert "ready" not in [status.stage for status in seen]
    with pytest.raises(NotReady):
        backend.search("red", 1)
