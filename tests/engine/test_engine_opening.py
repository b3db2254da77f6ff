"""An index opened again, by other engines, processes and threads, and after a process was killed."""

import multiprocessing
import sqlite3
import threading
import time
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from tests.color_model import color_model, paint
from tests.engine_photos import GRID, check_sums, engine_fixture, found, model_fixture, photos_fixture  # noqa: F401  fixtures
from xattn.engine import Engine, add, index_info, open_index, remove_pictures
from xattn.errors import IndexBusy, IndexMismatch, StoreError
from xattn.index import ExactIndex
from xattn.model import XAttnModel
from xattn.store import CATALOGUE
from xattn.store.schema import FORMAT_VERSION
from xattn.types import Progress


def test_info_tells_what_is_stored(engine: Engine, photos: Path, model: XAttnModel) -> None:
    engine.add(photos)
    info = engine.info()
    assert (info.num_pictures, info.num_regions, info.dim) == (3, 35 + 35 + 36, 32)
    assert (info.model_name, info.fingerprint) == ("colors", model.feature_fingerprint)
    assert info.num_bytes > info.num_regions * info.dim * 2
    assert info.format_version == FORMAT_VERSION


def test_an_index_is_the_same_after_reopening(photos: Path, tmp_path: Path, model: XAttnModel) -> None:
    with open_index(tmp_path / "index", model) as engine:
        engine.add(photos)
        before = [(hit.path, hit.score) for hit in engine.search("green or red")]
    with open_index(str(tmp_path / "index"), model) as engine:
        assert [(hit.path, hit.score) for hit in engine.search("green or red")] == before


def test_another_model_is_refused(engine: Engine, photos: Path, tmp_path: Path) -> None:
    engine.add(photos)
    with pytest.raises(IndexMismatch, match=r"'colors'.*'other'"):
        open_index(tmp_path / "index", color_model("other", null_value=-0.8))


def test_an_engine_sees_what_another_adds_and_removes(
    engine: Engine, photos: Path, tmp_path: Path, model: XAttnModel
) -> None:
    with open_index(tmp_path / "index", model) as reader:
        assert reader.search("red") == []
        engine.add(photos)
        assert found(reader, "red") == ["a.png"]
        engine.remove(photos / "a.png")
        assert found(reader, "red") == []
        assert len(reader.search("red", 1, candidates=1)) == 1
        paint(GRID, "pink").save(photos / "d.png")
        engine.add(photos / "d.png")
        assert found(reader, "pink") == ["d.png"]


def test_a_second_writer_is_refused_and_readers_are_not(
    engine: Engine, photos: Path, tmp_path: Path, model: XAttnModel
) -> None:
    with open_index(tmp_path / "index", model) as other:

        def meanwhile(progress: Progress) -> None:
            with pytest.raises(IndexBusy, match="Searching works meanwhile"):
                other.add(photos)
            with pytest.raises(IndexBusy):
                other.remove(photos)
            other.search("red")

        engine.add(photos, progress=meanwhile)
        assert len(other.add(photos).unchanged) == 3


def test_an_index_outlives_another_attention_and_follows_its_scores(
    photos: Path, tmp_path: Path, model: XAttnModel
) -> None:
    with open_index(tmp_path / "index", model) as engine:
        engine.add(photos)
        before = engine.search("red", 1)[0]
    trained = color_model()
    with torch.no_grad():
        trained.attention.query.weight.mul_(0.5)
    assert trained.fingerprint != model.fingerprint
    with open_index(tmp_path / "index", trained) as engine:
        after = engine.search("red", 1)[0]
        assert len(engine.add(photos).unchanged) == 3
    assert after.path == before.path
    assert after.score != before.score


def test_an_index_named_by_the_whole_model_is_opened_and_named_by_its_features(
    photos: Path, tmp_path: Path, model: XAttnModel
) -> None:
    with open_index(tmp_path / "index", model) as engine:
        engine.add(photos)
    with closing(sqlite3.connect(tmp_path / "index" / CATALOGUE)) as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'fingerprint'", (model.fingerprint,))
        db.commit()
    assert index_info(tmp_path / "index").fingerprint == model.fingerprint
    with open_index(tmp_path / "index", model) as engine:
        assert len(engine.search("red")) == 3
    assert index_info(tmp_path / "index").fingerprint == model.feature_fingerprint


def test_information_and_removal_need_no_model(photos: Path, tmp_path: Path, model: XAttnModel) -> None:
    with open_index(tmp_path / "index", model) as engine:
        engine.add(photos)
        assert index_info(tmp_path / "index") == engine.info()
        assert remove_pictures(tmp_path / "index", [photos / "a.png"]) == ([photos / "a.png"], 2)
        assert len(engine) == 2
    for absent in (tmp_path / "no index", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(StoreError, match=r"no index|cannot be used"):
            index_info(absent)
    assert list((tmp_path / "empty").iterdir()) == []
    assert not (tmp_path / "no index").exists()


def test_another_kind_of_index_can_be_given(photos: Path, tmp_path: Path, model: XAttnModel) -> None:
    made: list[ExactIndex] = []

    def new_index(dim: int) -> ExactIndex:
        made.append(ExactIndex(dim))
        return made[-1]

    with Engine(tmp_path / "index", model, new_index=new_index) as engine:
        engine.add(photos)
        engine.search("red")
    (index,) = made
    assert (index.dim, len(index)) == (model.dim + 1, 3)


def test_threads_may_search_while_one_adds_and_removes(engine: Engine, photos: Path) -> None:
    failures = []
    stop = threading.Event()

    def search() -> None:
        while not stop.is_set():
            try:
                for hit in engine.search("red", 3):
                    check_sums(hit.whole)
            except Exception as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        engine.add(photos)
        engine.remove(photos)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []


def add_slowly(index: Path, photos: Path, connection: Connection) -> None:
    torch.set_num_threads(1)
    add.COMMIT_SECONDS = 0
    with open_index(index, color_model()) as engine:
        connection.send("ready")
        engine.add(photos, batch_size=2)


@pytest.mark.parametrize("seconds", [0.005, 0.02, 0.05, 0.11])
def test_a_killed_process_leaves_an_index_that_answers(
    tmp_path: Path, model: XAttnModel, seconds: float
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(80):
        shape = [(5, 7), (7, 5), (6, 6)][i % 3]
        paint(shape, "blue", {(i % 5, i // 5 % 5): "red"}, cell=8 + i // 25).save(photos / f"{i:02}.png")
    context = multiprocessing.get_context("forkserver")
    for _ in range(2):
        ours, theirs = context.Pipe()
        process = context.Process(target=add_slowly, args=(tmp_path / "index", photos, theirs))
        process.start()
        assert ours.recv() == "ready"
        time.sleep(seconds)
        process.kill()
        process.join()
        with open_index(tmp_path / "index", model) as engine:
            hits = engine.search("red", 80)
            assert len(hits) == len(engine)
            for hit in hits:
                i = int(hit.path.stem)
                assert hit.whole.weights[i % 5, i // 5 % 5] > 0.99
    with open_index(tmp_path / "index", model) as engine:
        report = engine.add(photos)
        assert (len(engine), report.skipped, report.removed) == (80, [], [])
        assert len(engine.search("red", 80)) == 80
