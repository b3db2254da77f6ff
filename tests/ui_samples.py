"""What the tests behind the page share: the colour model, three photos as samples, a renderer."""

import json

import pytest

from tests.color_model import color_model, paint
from xattn.service.samples import Credit, Samples
from xattn.ui.render import Renderer

GRID = (5, 7)


@pytest.fixture(name="model", scope="module")
def model_fixture():
    return color_model()


@pytest.fixture(name="samples")
def samples_fixture(tmp_path) -> Samples:
    """Three photos with credits and queries, as in data/samples."""
    folder = tmp_path / "samples"
    (folder / "photos").mkdir(parents=True)
    paint(GRID, "blue", {(1, 4): "red"}).save(folder / "photos" / "a.png")
    paint((7, 5), "green", {(6, 2): "yellow"}).save(folder / "photos" / "b.png")
    paint((6, 6), "gray").save(folder / "photos" / "c.png")
    credit = Credit("A red spot", "CC BY 2.0", "https://license.test/", "https://photo.test/")
    (folder / "credits.json").write_text(json.dumps([{"file": "a.png", "coco_id": 1, **credit._asdict()}]))
    (folder / "queries.json").write_text(json.dumps([{"query": "a red spot", "relevant": ["a.png"]}]))
    return Samples(folder, tmp_path / "cache")


@pytest.fixture(name="renderer")
def renderer_fixture(tmp_path) -> Renderer:
    return Renderer(tmp_path / "overlays")
