"""An index of painted photos, on a model that sees nothing but colours."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.color_model import color_model, paint
from xattn.engine import Engine, open_index
from xattn.model import XAttnModel
from xattn.types import Grounding, Size

GRID: Size = (5, 7)
SIZE: Size = (100, 140)


@pytest.fixture(name="model", scope="module")
def model_fixture() -> XAttnModel:
    return color_model()


@pytest.fixture(name="photos")
def photos_fixture(tmp_path: Path) -> Path:
    """Three pictures in two folders; the red cell is at row 1, column 4."""
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    paint(GRID, "blue", {(1, 4): "red"}).save(folder / "a.png")
    paint((7, 5), "green", {(6, 2): "yellow", (0, 0): "white"}).save(folder / "b.png")
    paint((6, 6), "gray").save(folder / "trip" / "c.png")
    return folder


@pytest.fixture(name="engine")
def engine_fixture(tmp_path: Path, model: XAttnModel) -> Iterator[Engine]:
    with open_index(tmp_path / "index", model) as engine:
        yield engine


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
