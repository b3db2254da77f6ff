"""The default model's training in small: painted photos with captions, phrases and boxes; tiny nets."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tiny_default import tiny_default
from training.recipe import Recipe, smoke
from training.run import Places
from xattn.model.checkpoint import save_model

SIZES = [(60, 90), (90, 60), (70, 72)]
"""(height, width): one for each shape that the towers see."""
COLORS = {"red": (220, 20, 20), "green": (20, 160, 20), "blue": (20, 40, 220), "yellow": (240, 230, 20)}
NUM_PHOTOS = 24
TINY = replace(smoke(Recipe()), batch_size=3, averaging=0.5, checkpoint_minutes=0.0)


def record(number: int, **changes: Any) -> dict[str, Any]:
    color = list(COLORS)[number % len(COLORS)]
    box = [0.5, 0.25, 1.0, 0.75]
    return {
        "id": 100 + number,
        "image": f"{number}.png",
        "split": "train",
        "captions": [f"a {color} square number {number}", f"{color} on grey"],
        "boxes": [{"name": f"{color} square", "box": box}],
        "phrases": [{"phrase": f"a {color} thing", "boxes": [box], "in_captions": [0]}],
    } | changes


@pytest.fixture(name="places", scope="module")
def places_fixture(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """A data set, a model of random towers to start from, and where a run writes."""
    base = tmp_path_factory.mktemp("recipe")
    data = base / "painted"
    data.mkdir()
    records = [record(number) for number in range(NUM_PHOTOS)]
    for number, entry in enumerate(records):
        height, width = SIZES[number % 3]
        noise = np.random.default_rng(number).integers(90, 160, (height, width, 3), dtype=np.uint8)
        noise[height // 4 : 3 * height // 4, width // 2 :] = list(COLORS.values())[number % len(COLORS)]
        Image.fromarray(noise).save(data / entry["image"])
    lines = "".join(json.dumps(entry) + "\n" for entry in records)
    (data / "records.jsonl").write_text(lines, encoding="utf-8")
    credits = base / "credits.json"
    credits.write_text(json.dumps([{"coco_id": 100}]))
    start = base / "start"
    save_model(
        tiny_default([text for r in records for text in r["captions"]]),
        start,
        "# random\n",
        quantized=False,
    )
    (base / "work").mkdir()
    return Places((data,), str(start), credits, base / "out", base / "work")
