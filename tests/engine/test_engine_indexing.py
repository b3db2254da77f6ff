"""From folders to an index: what is added, updated, moved, removed and skipped, and what is encoded."""

import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.color_model import ColorVision, paint
from tests.engine_photos import engine_fixture, found, model_fixture, names, photos_fixture  # noqa: F401  fixtures
from xattn import images
from xattn.encoders import Frames
from xattn.engine import Engine, add
from xattn.errors import ImageError
from xattn.types import Progress, RegionGrid


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
    (hit,) = [hit for hit in engine.search("red") if hit.whole.found]
    assert (hit.path, hit.copies) == (photos / "x.png", (photos / "y.png",))


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
    (hit,) = [hit for hit in engine.search("red") if hit.whole.found]
    assert [hit.path.name, *names(hit.copies)] == ["a.png", *(f"copy {i}.png" for i in range(5))]
    assert engine.info().num_regions == 35 + 35 + 36
    engine.remove(photos / "a.png")
    (hit,) = [hit for hit in engine.search("red") if hit.whole.found]
    assert [hit.path.name, *names(hit.copies)] == [f"copy {i}.png" for i in range(5)]


def test_files_that_vanished_from_a_given_folder_are_removed(engine: Engine, photos: Path) -> None:
    engine.add(photos)
    (photos / "a.png").unlink()
    assert engine.add(photos / "b.png").removed == []
    report = engine.add(photos)
    assert report.removed == [photos / "a.png"]
    assert len(engine) == 2
    assert found(engine, "red") == []


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
    assert max(lead) <= 2 * 4 + add.DECODERS + 1
    assert max(lead) >= 4


def test_an_interrupted_run_keeps_what_was_committed_and_goes_on(
    engine: Engine, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(add, "COMMIT_SECONDS", 0)

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
    monkeypatch.setattr(add, "COMMIT_SECONDS", 0)
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
