"""Folder → index → hits with maps, on a model that sees nothing but colours."""

import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.color_model import ColorVision, color_model, paint
from xattn import images, indexing
from xattn.encoders import Frames
from xattn.engine import Engine, open_index
from xattn.errors import ImageError, IndexBusy, IndexMismatch, QueryError
from xattn.model import XAttnModel
from xattn.types import Grounding, Progress, RegionGrid, Size

GRID: Size = (5, 7)
SIZE: Size = (100, 140)


@pytest.fixture(scope="module")
def model() -> XAttnModel:
    return color_model()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures in two folders; the red cell is at row 1, column 4."""
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    paint(GRID, "blue", {(1, 4): "red"}).save(folder / "a.png")
    paint((7, 5), "green", {(6, 2): "yellow", (0, 0): "white"}).save(folder / "b.png")
    paint((6, 6), "gray").save(folder / "trip" / "c.png")
    return folder


@pytest.fixture
def engine(tmp_path: Path, model: XAttnModel) -> Iterator[Engine]:
    with open_index(tmp_path / "index", model) as engine:
        yield engine


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that were encoded."""
    sizes: list[int] = []
    forward = ColorVision.forward

    def count(self: ColorVision, batch: Sequence[Frames]) -> RegionGrid:
        sizes.append(len(batch))
        return forward(self, batch)

    monkeypatch.setattr(ColorVision, "forward", count)
    return sizes


def names(paths: Iterable[Path]) -> list[str]:
    return sorted(Path(path).name for path in paths)


def found(engine: Engine, text: str, k: int = 12) -> list[str]:
    """Names of the pictures that match, best first."""
    return [hit.path.name for hit in engine.search(text, k) if hit.probability > 0.5]


def check_sums(grounding: Grounding) -> None:
    assert grounding.weights.sum() + grounding.null_weight == pytest.approx(1, abs=1e-5)
    parts = grounding.contributions.sum() + sum(grounding.rest.values())
    assert parts == pytest.approx(grounding.score, abs=1e-4)
    assert 0 <= grounding.probability <= 1


# --- searching --------------------------------------------------------------------------------------


def test_a_search_finds_the_picture_and_the_place(engine: Engine, photos: Path) -> None:
    report = engine.add(photos)
    assert names(report.added) == ["a.png", "b.png", "c.png"]
    assert len(engine) == 3
    hits = engine.search("a red square")
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    best = hits[0]
    assert best.path == photos / "a.png"
    assert best.size == SIZE
    assert best.whole.weights.shape == GRID
    assert best.whole.weights[1, 4] > 0.99
    assert best.whole.score == best.score
    assert best.whole.probability == best.probability > 0.5 > hits[1].probability
    assert hits[1].whole.null_weight > 0.9
    assert hits[1].path.name != "a.png"
    assert {hit.path.name: hit.whole.weights.shape for hit in hits} == {
        "a.png": (5, 7),
        "b.png": (7, 5),
        "c.png": (6, 6),
    }


def test_phrases_have_maps_of_their_own_and_all_sums_are_exact(engine: Engine, photos: Path) -> None:
    engine.add(photos)
    hits = engine.search("[a yellow spot] and [white] on green")
    best = hits[0]
    assert best.path.name == "b.png"
    assert best.whole.phrase.text == "a yellow spot and white on green"
    assert [g.phrase.text for g in best.phrases] == ["a yellow spot", "white"]
    assert best.phrases[0].weights[6, 2] > 0.99
    assert best.phrases[1].weights[0, 0] > 0.99
    assert best.groundings == best.phrases
    for hit in hits:
        for grounding in (hit.whole, *hit.phrases):
            check_sums(grounding)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("red", []),
        ("  [red]  ", []),
        ("a red square", []),
        ("[red] square", ["red"]),
        ("a red square on a blue field", ["a red square", "a blue field"]),
    ],
)
def test_the_whole_text_comes_first_and_is_not_repeated(
    engine: Engine, photos: Path, text: str, parts: list[str]
) -> None:
    engine.add(photos / "a.png")
    whole, *phrases = engine.ground(photos / "a.png", text)
    assert whole.phrase.text == text.replace("[", "").replace("]", "").strip()
    assert [g.phrase.text for g in phrases] == parts
    (hit,) = engine.search(text, 1)
    assert [g.phrase for g in hit.phrases] == [g.phrase for g in phrases]


def test_a_search_says_of_a_stored_picture_what_ground_says_of_its_file(
    engine: Engine, photos: Path
) -> None:
    engine.add(photos)
    hit = engine.search("a red square on a blue field", 1)[0]
    for stored, fresh in zip(
        (hit.whole, *hit.phrases), engine.ground(hit.path, "a red square on a blue field"), strict=True
    ):
        np.testing.assert_allclose(stored.weights, fresh.weights, atol=1e-3)
        assert stored.score == pytest.approx(fresh.score, abs=1e-2)
        assert [box.box for box in stored.boxes] == [box.box for box in fresh.boxes]
        check_sums(fresh)


def test_ground_takes_pictures_in_memory_upright(engine: Engine) -> None:
    picture = paint(GRID, "blue", {(1, 4): "red"})
    rotated = picture.transpose(Image.Transpose.ROTATE_90)
    rotated.getexif()[0x0112] = 6  # "turn by 90° clockwise to see it upright"
    for image in (picture, rotated, picture.convert("RGBA")):
        (whole,) = engine.ground(image, "red")
        assert whole.weights.shape == GRID
        assert whole.weights[1, 4] > 0.99


def test_ground_names_a_file_it_cannot_read(engine: Engine, photos: Path) -> None:
    (photos / "d.jpg").write_text("no picture")
    for name in ("d.jpg", "absent.jpg"):
        with pytest.raises(ImageError, match=name):
            engine.ground(photos / name, "red")


def test_equal_scores_are_ordered_by_id_and_k_is_kept(engine: Engine, photos: Path) -> None:
    for i in range(9):  # same colours, different files
        picture = paint(GRID, "blue", {(1, 4): "red"})
        picture.putpixel((0, 0), (0, 0, 200 + i))
        picture.save(photos / f"z{i}.png")
    engine.add(photos)
    everything = engine.search("red", 12)
    tied = [hit.path.name for hit in everything if hit.probability > 0.5]
    assert tied == ["a.png", *(f"z{i}.png" for i in range(9))]
    for k in (1, 4, 10):
        assert [hit.path.name for hit in engine.search("red", k)] == tied[:k]


def test_more_candidates_than_are_scored_at_once_change_nothing(
    engine: Engine, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.add(photos)
    expected = engine.search("yellow and gray")
    monkeypatch.setattr("xattn.engine.SCORED_AT_ONCE", 1)
    for hit, same in zip(engine.search("yellow and gray"), expected, strict=True):
        assert hit.path == same.path
        assert hit.score == pytest.approx(same.score)


def test_candidates_limit_what_the_second_stage_sees(engine: Engine, photos: Path) -> None:
    engine.add(photos)
    assert len(engine.search("red", 1, candidates=1)) == 1
    assert len(engine.search("red", 3, candidates=1)) == 3


@pytest.mark.parametrize("text", ["", "  \n", "[]", "[ ]"])
def test_an_empty_query_is_an_error(engine: Engine, text: str) -> None:
    with pytest.raises(QueryError, match="the query is empty"):
        engine.search(text)
    with pytest.raises(ValueError, match="the query is empty"):
        engine.ground(paint(GRID, "red"), text)


def test_less_than_one_result_is_an_error(engine: Engine) -> None:
    with pytest.raises(QueryError, match="k must be at least 1, got 0"):
        engine.search("red", 0)
    with pytest.raises(QueryError, match="candidates must be at least 1, got -1"):
        engine.search("red", candidates=-1)


def test_an_empty_index_answers_with_nothing(engine: Engine) -> None:
    assert engine.search("red") == []
    assert len(engine) == 0
    assert engine.info().num_regions == 0


# --- adding -----------------------------------------------------------------------------------------


def test_a_second_run_reads_nothing(engine: Engine, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.add(photos)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("an unchanged file was read"))
    report = engine.add([photos])
    assert names(report.unchanged) == ["a.png", "b.png", "c.png"]
    assert [report.added, report.updated, report.moved, report.removed, report.skipped] == [[]] * 5


def test_a_touched_file_is_unchanged_and_read_once(
    engine: Engine, photos: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.add(photos)
    encoded.clear()
    os.utime(photos / "a.png", ns=(1, 1))
    assert names(engine.add(photos).unchanged) == ["a.png", "b.png", "c.png"]
    assert encoded == []
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("its new time was not kept"))
    assert len(engine.add(photos).unchanged) == 3


def test_a_changed_file_is_updated_and_keeps_its_id(engine: Engine, photos: Path) -> None:
    engine.add(photos)
    before = engine.search("red", 1)[0]
    paint((4, 9), "pink").save(photos / "a.png")
    report = engine.add(photos)
    assert names(report.updated) == ["a.png"]
    assert found(engine, "red") == []
    after = engine.search("pink", 1)[0]
    assert (after.path, after.picture_id) == (before.path, before.picture_id)
    assert after.size == (80, 180)
    assert engine.info().num_regions == 4 * 9 + 7 * 5 + 6 * 6


def test_a_moved_file_keeps_its_vectors_and_its_id(
    engine: Engine, photos: Path, tmp_path: Path, encoded: list[int]
) -> None:
    engine.add(photos)
    before = engine.search("red", 1)[0]
    encoded.clear()
    (tmp_path / "elsewhere").mkdir()
    (photos / "a.png").rename(tmp_path / "elsewhere" / "new name.png")
    report = engine.add(tmp_path / "elsewhere")
    assert report.moved == [(photos / "a.png", tmp_path / "elsewhere" / "new name.png")]
    assert encoded == []
    after = engine.search("red", 1)[0]
    assert (after.path.name, after.picture_id) == ("new name.png", before.picture_id)
    assert len(engine) == 3


def test_of_two_copies_of_a_file_that_is_gone_one_was_moved_and_one_added(
    engine: Engine, photos: Path
) -> None:
    engine.add(photos)
    for name in ("x.png", "y.png"):
        shutil.copy(photos / "a.png", photos / name)
    (photos / "a.png").unlink()
    report = engine.add(photos)
    assert report.moved == [(photos / "a.png", photos / "x.png")]
    assert report.added == [photos / "y.png"]
    assert found(engine, "red") == ["x.png", "y.png"]


def test_two_files_that_swap_names_are_not_encoded_again(
    engine: Engine, photos: Path, encoded: list[int]
) -> None:
    engine.add(photos)
    encoded.clear()
    (photos / "a.png").rename(photos / "swap")
    (photos / "b.png").rename(photos / "a.png")
    (photos / "swap").rename(photos / "b.png")
    for name in ("a.png", "b.png"):
        os.utime(photos / name)
    assert names(engine.add(photos).updated) == ["a.png", "b.png"]
    assert encoded == []
    assert found(engine, "red") == ["b.png"]
    assert found(engine, "yellow") == ["a.png"]


def test_copies_are_encoded_once_and_all_found(engine: Engine, photos: Path, encoded: list[int]) -> None:
    for i in range(5):
        shutil.copy(photos / "a.png", photos / "trip" / f"copy {i}.png")
    report = engine.add(photos, batch_size=3)
    assert len(report.added) == 8
    assert sum(encoded) == 3
    assert sorted(found(engine, "red")) == ["a.png", *(f"copy {i}.png" for i in range(5))]
    assert engine.info().num_regions == 35 + 35 + 36
    engine.remove(photos / "a.png")
    assert len(found(engine, "red")) == 5


def test_files_that_vanished_from_a_given_folder_are_removed(engine: Engine, photos: Path) -> None:
    engine.add(photos)
    (photos / "trip" / "c.png").unlink()
    assert engine.add(photos / "a.png").removed == []
    report = engine.add(photos)
    assert report.removed == [photos / "trip" / "c.png"]
    assert len(engine) == 2
    assert found(engine, "gray") == []


def test_a_folder_that_is_missing_as_a_whole_may_be_an_unmounted_drive(
    engine: Engine, photos: Path
) -> None:
    engine.add(photos)
    photos.rename(photos.with_name("gone"))
    with pytest.raises(ImageError, match="photos: it does not exist"):
        engine.add(photos)
    assert len(engine) == 3


def test_what_cannot_be_read_is_reported_and_what_was_stored_of_it_is_removed(
    engine: Engine, photos: Path
) -> None:
    engine.add(photos)
    (photos / "a.png").write_bytes((photos / "a.png").read_bytes()[:150])
    (photos / "new.jpg").write_text("no picture")
    report = engine.add(photos)
    assert names(s.path for s in report.skipped) == ["a.png", "new.jpg"]
    assert all(s.reason for s in report.skipped)
    assert names(report.removed) == ["a.png"]
    assert names(report.unchanged) == ["b.png", "c.png"]
    assert found(engine, "red") == []


def test_progress_counts_every_file_once_on_this_thread(engine: Engine, photos: Path) -> None:
    shutil.copy(photos / "a.png", photos / "copy.png")
    (photos / "broken.jpg").write_text("no picture")
    calls = []
    engine.add(photos, batch_size=2, progress=lambda p: calls.append((p, threading.get_ident())))
    assert [(p.done, p.total) for p, _ in calls] == [(i, 5) for i in range(1, 6)]
    assert names(p.path for p, _ in calls) == ["a.png", "b.png", "broken.jpg", "c.png", "copy.png"]
    assert {thread for _, thread in calls} == {threading.get_ident()}


def test_decoding_runs_ahead_of_the_encoder_by_a_bounded_number(
    engine: Engine, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(60):
        paint((4, 6), "blue", {(i % 4, i % 6): "red"}).resize((120 + i, 80)).save(photos / f"{i:02}.png")
    loaded: list[Path] = []
    encoded: list[Frames] = []
    lead: list[int] = []
    load, encode = images.load, engine.model.encode_frames

    def counting_load(path: Path, **options: int) -> images.Decoded:
        loaded.append(path)
        return load(path, **options)

    def counting_encode(batch: Sequence[Frames]) -> RegionGrid:
        encoded.extend(batch)
        time.sleep(0.02)  # the decoders have time to run as far ahead as they may
        lead.append(len(loaded) - len(encoded))
        return encode(batch)

    monkeypatch.setattr(images, "load", counting_load)
    monkeypatch.setattr(engine.model, "encode_frames", counting_encode)
    engine.add(photos, batch_size=4)
    assert len(engine) == 63
    assert max(lead) <= 2 * 4 + indexing.DECODERS + 1
    assert max(lead) >= 4


def test_an_interrupted_run_keeps_what_was_committed_and_goes_on(
    engine: Engine, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "COMMIT_SECONDS", 0)

    def interrupt(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.add(photos, batch_size=1, progress=interrupt)
    assert len(engine) == 1
    assert found(engine, "red") == ["a.png"]
    report = engine.add(photos)
    assert (names(report.unchanged), names(report.added)) == (["a.png"], ["b.png", "c.png"])


@pytest.mark.parametrize(("fits", "sizes"), [(2, [3, 1, 1, 1]), (0, [3, 1])])
def test_a_batch_too_large_for_the_card_is_halved(
    fits: int, sizes: list[int], engine: Engine, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What did not fit is encoded in smaller parts, none twice; one picture that does not fit raises."""
    tried: list[int] = []
    encode = engine.model.encode_frames

    def limited(batch: Sequence[Frames]) -> RegionGrid:
        tried.append(len(batch))
        if len(batch) > fits:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return encode(batch)

    monkeypatch.setattr(engine.model, "encode_frames", limited)
    if fits:
        assert names(engine.add(photos).added) == ["a.png", "b.png", "c.png"]
        assert found(engine, "red") == ["a.png"]
    else:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            engine.add(photos)
        assert len(engine) == 0
    assert tried == sizes


def test_pictures_can_be_found_while_more_are_added(
    engine: Engine, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "COMMIT_SECONDS", 0)
    seen = []
    engine.add(photos, batch_size=1, progress=lambda _: seen.append(found(engine, "red")))
    assert seen[-1] == ["a.png"]


def test_one_folder_by_its_name_its_relative_path_and_a_link_is_one_folder(
    engine: Engine, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(photos)
    monkeypatch.chdir(tmp_path)
    engine.add("photos")
    assert len(engine.add(Path("link")).unchanged) == 3
    assert len(engine.add([photos, "photos/trip/.."]).unchanged) == 3
    assert len(engine) == 3
    assert engine.search("red", 1)[0].path == photos / "a.png"


# --- removing ---------------------------------------------------------------------------------------


def test_files_and_folders_are_removed_from_the_index_and_not_from_the_disk(
    engine: Engine, photos: Path
) -> None:
    engine.add(photos)
    assert engine.remove([photos / "trip", photos / "a.png", photos / "never added.png"]) == [
        photos / "a.png",
        photos / "trip" / "c.png",
    ]
    assert (photos / "a.png").exists()
    assert [hit.path.name for hit in engine.search("red")] == ["b.png"]
    assert engine.remove(photos) == [photos / "b.png"]
    assert engine.search("red") == []
    assert list(engine.index_dir.glob("regions-*")) == []


def test_a_folder_that_is_gone_can_still_be_removed(engine: Engine, photos: Path) -> None:
    engine.add(photos)
    shutil.rmtree(photos / "trip")
    assert names(engine.remove(photos / "trip")) == ["c.png"]


# --- opening ----------------------------------------------------------------------------------------


def test_info_tells_what_is_stored(engine: Engine, photos: Path, model: XAttnModel) -> None:
    engine.add(photos)
    info = engine.info()
    assert (info.num_pictures, info.num_regions, info.dim) == (3, 35 + 35 + 36, 32)
    assert (info.model_name, info.fingerprint) == ("colors", model.fingerprint)
    assert info.num_bytes > info.num_regions * info.dim * 2
    assert info.format_version == 1


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
    indexing.COMMIT_SECONDS = 0
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
