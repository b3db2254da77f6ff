"""Painted pictures whose every figure can be counted by hand, as datasets to evaluate on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.color_model import color_model, paint
from xattn.evaluation import Dataset, HardNegative, NamedBox, Record, Report, Settings
from xattn.model import XAttnModel

FAST = Settings(num_resamples=50)


def save(picture: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def spot(folder: Path, name: str, color: str, cell: tuple[int, int] = (1, 5)) -> Path:
    """A picture of 5 x 7 cells, gray but for one cell, as PNG."""
    return save(paint((5, 7), "gray", {cell: color}), folder / f"{name}.png")


def box_of(row: int, column: int) -> tuple[float, float, float, float]:
    return column / 7, row / 5, (column + 1) / 7, (row + 1) / 5


@pytest.fixture(name="model")
def model_fixture() -> XAttnModel:
    return color_model()


@pytest.fixture(name="painted")
def painted_fixture(tmp_path: Path) -> Dataset:
    """Three pictures of one spot each, on gray; the third has two captions, of which one is no help."""
    cells = {"red": (1, 5), "green": (2, 3), "blue": (4, 0)}
    captions = {
        "red": ("a red square",),
        "green": ("a green square",),
        "blue": ("a blue square", "something gray"),
    }
    return Dataset(
        name="painted",
        split=None,
        records=tuple(
            Record(
                id=color,
                image=spot(tmp_path, color, color, cell),
                captions=captions[color],
                boxes=(NamedBox(color, box_of(*cell)), NamedBox("gray", (0.0, 0.0, 1.0, 1.0))),
                phrases=(NamedBox(f"the {color} cell", box_of(*cell)),),
            )
            for color, cell in cells.items()
        ),
        hard_negatives=(
            HardNegative("red", "swap", "color", "a red square", "a blue square"),
            HardNegative("green", "swap", "color", "a purple square", "a green square"),
            HardNegative("blue", "swap", "nothing", "a square", "a thing"),  # equal scores
            HardNegative("blue", "other", "color", "a blue square", "a pink square"),
        ),
    )


@pytest.fixture(name="many")
def many_fixture(tmp_path: Path) -> Dataset:
    """Twenty pictures of different shapes, three captions each on average, some without."""
    rng = np.random.default_rng(0)
    colors = ["red", "green", "blue", "yellow", "pink", "brown"]
    records = []
    for i in range(20):
        grid = ((5, 7), (7, 5), (3, 9))[i % 3]
        shown = rng.choice(colors, 2, replace=False)
        picture = paint(grid, str(shown[0]), {(0, int(rng.integers(5))): str(shown[1])})
        captions = tuple(f"{j} {rng.choice(colors)} {rng.choice(shown)}" for j in range(i % 7))
        records.append(Record(str(i), save(picture, tmp_path / f"{i}.png"), captions))
    return Dataset("many", None, tuple(records))


def value(report: Report, group: str, measure: str, subject: str) -> float:
    return report.figure(group, measure, subject).value.value
