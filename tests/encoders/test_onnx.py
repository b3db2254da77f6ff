"""Exported towers give what torch gives, for any batch and size, and step aside when they must."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jaxtyping
import pytest
import torch
from typer.testing import CliRunner

from tests.tiny_clip import noise, tiny_clip
from xattn import cli
from xattn.encoders.onnx.graphs import export_graphs
from xattn.encoders.onnx.runtime import Exported
from xattn.encoders.openclip.model import RegionConfig
from xattn.errors import CheckpointError, MissingExtra
from xattn.model import XAttnModel
from xattn.model.checkpoint import load_model, save_model
from xattn.model.zero_shot import assemble

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

PICTURES = [noise(50, 70), noise(70, 50, 1), noise(60, 60, 2), noise(50, 70, 3), noise(20, 100, 4)]


@pytest.fixture(autouse=True)
def _unchecked() -> Iterator[None]:
    """The exporter traces: sizes become tensors, which the check of shapes would refuse."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def exported(family: str, directory: Path, **config: Any) -> tuple[XAttnModel, XAttnModel]:
    """A model by torch and the same by ONNX Runtime."""
    model = assemble(tiny_clip(family), RegionConfig(**config), name="tiny")
    save_model(model, directory, card="")
    export_graphs(model.vision, model.text, directory)
    return model, load_model(directory, device="cpu")


def runs(model: XAttnModel, part: str = "vision") -> list[int]:
    """Counts, from here on, how many pictures (or texts) each run of the graph has."""
    counted: list[int] = []
    stand_in: Any = getattr(model, part).features
    assert isinstance(stand_in, Exported)
    graph = stand_in._graph
    session = graph._session.run

    def counting(outputs: Any, given: Any) -> Any:
        counted.append(len(next(iter(given.values()))))
        return session(outputs, given)

    graph._session = SimpleNamespace(run=counting)
    return counted


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("vit", {}),
        ("vit", {"method": "naclip"}),
        ("vit", {"windows": True, "num_regions": 60}),
        ("vit-average", {"method": "plain"}),
        ("vit-custom", {}),
        ("coca", {}),
        ("resnet", {"method": "sclip"}),
        ("siglip", {}),
        ("siglip", {"windows": True, "num_regions": 60}),
        ("token", {"method": "naclip"}),
        ("eva", {}),
        ("eva", {"method": "naclip"}),
        ("eva-post", {}),
        ("pe", {}),
        ("pe", {"windows": True, "num_regions": 60}),
        ("vitamin", {}),
        ("convnext", {}),
        ("fastvit", {}),
        ("swin", {}),
    ],
)
def test_exported_towers_give_what_torch_gives(family: str, config: dict[str, Any], tmp_path: Path) -> None:
    model, other = exported(family, tmp_path, **config)
    counted = runs(other)
    expected, found = model.encode_images(PICTURES), other.encode_images(PICTURES)
    assert counted
    assert found.sizes == expected.sizes
    torch.testing.assert_close(found.regions, expected.regions, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.pooled, expected.pooled, atol=1e-5, rtol=1e-4)
    texts, read = ["a red dog", "x"], runs(other, "text")
    torch.testing.assert_close(other.encode_texts(texts), model.encode_texts(texts), atol=1e-5, rtol=1e-4)
    assert read == [2]
    assert other.fingerprint == model.fingerprint


def test_the_default_model_is_exported_by_the_command(tmp_path: Path) -> None:
    """Pictures of each of its shapes, texts of several lengths; an index of one is one of the other."""
    result = CliRunner().invoke(cli.app, ["export", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    model, other = load_model("default", device="cpu"), load_model(tmp_path / "out", device="cpu")
    counted, read = runs(other), runs(other, "text")
    pictures = [noise(120, 160), noise(160, 120, 1), noise(130, 130, 2), noise(120, 160, 3)]
    expected, found = model.encode_images(pictures), other.encode_images(pictures)
    assert sorted(counted) == [1, 1, 2]
    assert found.sizes == expected.sizes
    assert torch.cosine_similarity(found.pooled, expected.pooled).min() > 0.9999
    assert torch.cosine_similarity(found.regions, expected.regions, dim=-1)[expected.mask].min() > 0.9999
    for texts in (["a dog"], ["a dog with a frisbee on a beach", "cats", "two"]):
        torch.testing.assert_close(
            other.encode_texts(texts), model.encode_texts(texts), atol=1e-4, rtol=1e-3
        )
    assert read == [1, 3]
    assert other.fingerprint == model.fingerprint


def test_copies_of_a_model_run_by_torch(tmp_path: Path) -> None:
    """A copy has weights of its own, which the graph does not know."""
    _, model = exported("vit", tmp_path)
    counted = runs(model)
    copy = deepcopy(model)
    with torch.no_grad():
        copy.vision.visual.proj.mul_(-1)  # type: ignore[union-attr, operator]
    found = copy.encode_images(PICTURES[:1]).pooled
    assert not counted
    torch.testing.assert_close(found, -model.encode_images(PICTURES[:1]).pooled, atol=1e-5, rtol=1e-4)


def test_changed_weights_and_training_run_by_torch(tmp_path: Path) -> None:
    _, model = exported("vit", tmp_path)
    counted = runs(model)
    vision = model.vision
    frames = [model.preprocess(PICTURES[0])]
    vision(frames)  # with gradients
    assert not counted
    before = model.encode_frames(frames)
    assert counted == [1, 1]
    with torch.no_grad():
        vision.visual.proj.mul_(-1)  # type: ignore[union-attr, operator]
    after = model.encode_frames(frames)
    assert counted == [1, 1]
    torch.testing.assert_close(after.pooled, -before.pooled, atol=1e-5, rtol=1e-4)


def test_a_save_removes_the_graphs_of_the_model_before(tmp_path: Path) -> None:
    exported("vit", tmp_path)
    assert (tmp_path / "vision.onnx").is_file()
    save_model(assemble(tiny_clip("vit"), RegionConfig(), name="new"), tmp_path, card="")
    assert not list(tmp_path.glob("*.onnx"))


def test_graphs_of_other_weights_are_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Copied from another directory, or left beside weights that were replaced by hand."""
    model, _ = exported("vit", tmp_path / "first")
    with torch.no_grad():
        model.vision.visual.proj.mul_(-1)  # type: ignore[union-attr, operator]
    save_model(model, tmp_path / "second", card="")
    for graph in (tmp_path / "first").glob("*.onnx"):
        (tmp_path / "second" / graph.name).write_bytes(graph.read_bytes())
    loaded = load_model(tmp_path / "second", device="cpu")
    assert "other weights" in caplog.text
    torch.testing.assert_close(
        loaded.encode_images(PICTURES[:1]).pooled,
        model.encode_images(PICTURES[:1]).pooled,
        atol=1e-5,
        rtol=1e-4,
    )


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    model = assemble(tiny_clip("vit"), RegionConfig(), name="tiny")
    model.vision.features = lambda pixels: pixels.sort().values.histc(3)  # type: ignore[method-assign, assignment]
    with pytest.raises(CheckpointError, match="cannot be exported"):
        export_graphs(model.vision, model.text, tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_the_runtime_torch_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = exported("vit", tmp_path)

    def missing(package: str, needed_for: str) -> Any:
        raise MissingExtra(package, "onnx", needed_for)

    monkeypatch.setattr("xattn.encoders.onnx.runtime._import", missing)
    loaded = load_model(tmp_path, device="cpu")
    torch.testing.assert_close(loaded.encode_images(PICTURES).pooled, model.encode_images(PICTURES).pooled)
    with pytest.raises(MissingExtra, match=r"xattn\[onnx\]"):
        export_graphs(model.vision, model.text, tmp_path)


def test_damaged_graphs_are_refused(tmp_path: Path) -> None:
    exported("vit", tmp_path)
    (tmp_path / "vision.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match=r"vision\.onnx is no graph"):
        load_model(tmp_path)


def test_the_command(tmp_path: Path) -> None:
    model, _ = exported("vit", tmp_path / "first")
    result = CliRunner().invoke(
        cli.app, ["export", str(tmp_path / "out"), "--model", str(tmp_path / "first")]
    )
    assert result.exit_code == 0, result.output
    again = load_model(tmp_path / "out", device="cpu")
    assert again.fingerprint == model.fingerprint
    assert runs(again) == []
    refused = CliRunner().invoke(cli.app, ["export", str(tmp_path / "x"), "--model", "openclip:no/model"])
    assert refused.exit_code == 1
