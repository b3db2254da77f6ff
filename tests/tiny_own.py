"""Fine-tuning in small: twenty captioned pictures, a model of tiny nets, a loop that takes moments."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tiny_default import tiny_default
from xattn.datasets import load_dataset
from xattn.model.checkpoint import load_model, save_model
from xattn.training.data import load_own
from xattn.training.loop import Loop
from xattn.training.objective import Batches
from xattn.training.prepare import Places, Prepared
from xattn.training.settings import Settings, smoke

COLORS = {"red": (220, 20, 20), "green": (20, 160, 20), "blue": (20, 40, 220), "yellow": (240, 230, 20)}
SIZES = [(60, 90), (90, 60), (70, 72)]
TINY = replace(
    smoke(Settings()),
    epochs=3,
    batch_size=6,
    learning_rate=2e-3,
    validations=3,
    patience=0,
    keep=0.0,
    save_seconds=1e6,  # at the beginning and at the end only
)
NUM_PICTURES = 20


@pytest.fixture(name="data", scope="module")
def data_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of a coloured square on noise; two captions each, one of them shared by a whole colour."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(NUM_PICTURES):
        color = list(COLORS)[number % len(COLORS)]
        height, width = SIZES[number % 3]
        noise = np.random.default_rng(number).integers(90, 160, (height, width, 3), dtype=np.uint8)
        noise[height // 4 : 3 * height // 4, width // 2 :] = COLORS[color]
        Image.fromarray(noise).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {color} square\nsquare number {number}\n")
    return folder


@pytest.fixture(name="start", scope="module")
def start_fixture(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random towers, on disk."""
    model = tiny_default([text for record in load_dataset(data).records for text in record.captions])
    directory = tmp_path_factory.mktemp("start") / "model"
    save_model(model, directory, "# random\n", quantized=False)
    return directory


@pytest.fixture(name="places", scope="module")
def places_fixture(data: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Places:
    base = tmp_path_factory.mktemp("shared")
    return Places(data, base / "out", base / "work", str(start))


@pytest.fixture(name="prepared", scope="module")
def prepared_fixture(places: Places) -> Prepared:
    """What a run computes with the towers."""
    model = load_model(places.model, device="cpu")
    return Prepared(model, load_own(places.data, TINY), TINY, places, lambda *_: None)


Make = Callable[..., Loop]


@pytest.fixture(name="make_loop")
def make_loop_fixture(prepared: Prepared, tmp_path: Path) -> Make:
    """A loop as after a fresh start of the program, in a directory of the test's own."""

    def make(settings: Settings = TINY, **more: Any) -> Loop:
        objective = copy.deepcopy(prepared.objective)
        # The pictures' fusion is the copied model's, or the copy would train the original.
        objective.kind = settings.loss  # type: ignore[assignment]
        objective.biases.requires_grad_(settings.loss == "sigmoid")
        kept = prepared.batches
        batches = Batches(kept.pictures, settings, kept.num_views)
        validation = copy.copy(prepared.validation)
        validation.source = copy.copy(validation.source)
        validation.source.fusion = objective.pictures.fusion  # type: ignore[attr-defined]
        return Loop(objective, batches, validation, settings, tmp_path, "key", **more)

    return make
