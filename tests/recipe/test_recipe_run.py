"""The recipe of the shipped model, from photos to a model directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny_recipe import NUM_PHOTOS, TINY, places_fixture  # noqa: F401  fixture
from training.photos import read_credited, read_photos, split_off
from training.run import Places, run
from xattn.errors import CheckpointError, DataError, TrainingStopped
from xattn.model.checkpoint import load_model


def weights(directory: Path | str) -> dict[str, torch.Tensor]:
    return dict(load_model(directory, device="cpu").named_parameters())


def elsewhere(places: Places, folder: Path) -> Places:
    """The same run, writing somewhere else, with the frozen features of the first."""
    (folder / "work").mkdir()
    (folder / "work" / "features").symlink_to(places.work / "features")
    return replace(places, out=folder / "out", work=folder / "work")


@pytest.fixture(name="whole", scope="module")
def whole_fixture(places: Places) -> Places:
    run(TINY, places, half=False)
    return places


def test_a_run_trains_last_blocks_and_heads_and_saves_a_calibrated_model(whole: Places) -> None:
    before, after = weights(whole.start), weights(whole.out)
    moved = {name for name in before if not torch.allclose(before[name], after[name], atol=2e-3, rtol=0.05)}
    frozen = {n for n in before if n.startswith(("vision.conv.", "vision.vit.blocks.0.", "text.tokens"))}
    assert frozen
    assert not moved & frozen
    model = load_model(whole.out, device="cpu")
    assert len(model.hubness.captions) == TINY.bank_size
    assert model.calibration.pooled_weight == TINY.pooled_weight
    assert "painted" in (whole.out / "README.md").read_text()


def test_losses_are_logged_and_fall(whole: Places) -> None:
    entries = [eval(line) for line in (whole.work / "log.jsonl").read_text().splitlines()[:-1]]
    steps = [entry["loss"] for entry in entries if "loss" in entry]
    assert len(steps) == entries[-1]["steps"]
    assert min(steps[-3:]) < steps[0]


def test_a_stopped_run_goes_on_to_the_same_weights(whole: Places, tmp_path: Path) -> None:
    places = elsewhere(whole, tmp_path)
    for _ in range(100):
        try:
            run(TINY, places, half=False, minutes=0.0)
        except TrainingStopped:
            continue
        break
    first, second = (torch.load(p.work / "checkpoint.pt")["mean"] for p in (whole, places))
    for name in first:
        # Up to what rounding makes of a gradient that is zero: a small part of one step.
        torch.testing.assert_close(second[name], first[name], rtol=1e-3, atol=5e-5)


def test_a_checkpoint_of_other_numbers_is_refused(whole: Places, tmp_path: Path) -> None:
    places = elsewhere(whole, tmp_path)
    with pytest.raises(TrainingStopped):
        run(TINY, places, half=False, minutes=0.0)
    with pytest.raises(CheckpointError, match="other numbers"):
        run(replace(TINY, learning_rate=1e-3), places, half=False)


def test_sample_photos_and_held_out_ones_are_not_trained_on(places: Places) -> None:
    photos = read_photos(places.data[0], "train", read_credited(places.credits))
    assert len(photos) == NUM_PHOTOS - 1
    held, trained = split_off(photos, 5, seed=0)
    assert len(held) == 5
    assert not {p.key for p in held} & {p.key for p in trained}


def test_too_few_photos_for_a_batch_are_told(whole: Places, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no batch of 50"):
        run(replace(TINY, batch_size=50), elsewhere(whole, tmp_path), half=False)
