"""The default recipe's training in small: painted pictures, tiny nets, and their features."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny_default import tiny_nets
from training.recipes import default
from training.run import untrained
from xattn.model import XAttnModel
from xattn.training.default_towers import towers_of
from xattn.training.features import ViewFeatures, cached_features
from xattn.training.pictures import Dataset, read_dataset

SMOKE = default(smoke=True)
SIZES = [(60, 90), (90, 60), (70, 72)]
"""(height, width): one for each shape that the towers see."""
COLORS = {"red": (220, 20, 20), "green": (20, 160, 20), "blue": (20, 40, 220), "yellow": (240, 230, 20)}


def record(number: int, **changes: Any) -> dict[str, Any]:
    color = list(COLORS)[number % len(COLORS)]
    return {
        "id": 100 + number,
        "image": f"{number}.png",
        "split": "train",
        "captions": [f"a {color} square number {number}", f"{color} on grey"],
        "boxes": [{"name": color, "box": [0.5, 0.25, 1.0, 0.75]}],
        "phrases": [{"phrase": f"{color} thing", "box": [0.5, 0.25, 1.0, 0.75]}],
    } | changes


def write_records(directory: Path, records: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(entry) + "\n" for entry in records)
    (directory / "records.jsonl").write_text(lines, encoding="utf-8")


@pytest.fixture(name="_tiny_nets", scope="module", autouse=True)
def tiny_nets_fixture() -> Iterator[None]:
    with tiny_nets():
        yield


@pytest.fixture(name="data", scope="module")
def data_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen pictures of three shapes, a coloured square right of the middle; number 0 is a sample."""
    directory = tmp_path_factory.mktemp("data")
    records = [record(number) for number in range(14)]
    records.insert(3, record(50, split="dev"))
    write_records(directory, records)
    for number in range(14):
        height, width = SIZES[number % 3]
        noise = np.random.default_rng(number).integers(90, 160, (height, width, 3), dtype=np.uint8)
        noise[height // 4 : 3 * height // 4, width // 2 :] = list(COLORS.values())[number % 4]
        Image.fromarray(noise).save(directory / f"{number}.png")
    (directory / "credits.json").write_text(json.dumps([{"coco_id": 100}]), encoding="utf-8")
    return directory


@pytest.fixture(name="dataset", scope="module")
def dataset_fixture(data: Path) -> Dataset:
    whole = read_dataset(data, "train", {100})
    return replace(whole, pictures=whole.pictures[:12])


@pytest.fixture(name="model", scope="module")
def model_fixture(dataset: Dataset) -> XAttnModel:
    torch.manual_seed(SMOKE.seed)  # the towers of the smoke run, so that it can use the same cache
    return untrained(SMOKE, dataset)


@pytest.fixture(name="cache", scope="module")
def cache_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(name="features", scope="module")
def features_fixture(model: XAttnModel, dataset: Dataset, cache: Path) -> list[ViewFeatures]:
    few = replace(dataset, pictures=dataset.pictures[:6])
    return cached_features(towers_of(model)[0], few, 3, cache)
