"""Exported towers give what torch gives, for any batch and size, and step aside when they must."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from tiny_clip import noise, tiny_clip
from typer.testing import CliRunner

from xattn import cli
from xattn.checkpoint import load_model, save_model
from xattn.encoders.openclip import OpenClipVision, RegionConfig
from xattn.errors import CheckpointError, MissingExtra
from xattn.model import XAttnModel
from xattn.pretrained import assemble, export_graph

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
    export_graph(model, directory)
    return model, load_model(directory, device="cpu")


def runs(model: XAttnModel) -> list[int]:
    """Counts, from here on, how many pictures each run of the graph has."""
    counted: list[int] = []
    assert isinstance(model.vision, OpenClipVision)
    graph = model.vision._graph
    assert graph is not None
    encode = graph.encode

    def counting(pixels: torch.Tensor) -> Any:
        counted.append(len(pixels))
        return encode(pixels)

    graph.encode = counting  # type: ignore[method-assign]
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
    assert other.fingerprint == model.fingerprint


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


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    model = assemble(tiny_clip("siglip"), RegionConfig(), name="tiny")
    with pytest.raises(CheckpointError, match="not those of timm"):
        export_graph(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_the_runtime_torch_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = exported("vit", tmp_path)

    def missing(package: str, needed_for: str) -> Any:
        raise MissingExtra(package, "onnx", needed_for)

    monkeypatch.setattr("xattn.encoders.onnx._import", missing)
    loaded = load_model(tmp_path, device="cpu")
    torch.testing.assert_close(loaded.encode_images(PICTURES).pooled, model.encode_images(PICTURES).pooled)
    with pytest.raises(MissingExtra, match=r"xattn\[onnx\]"):
        export_graph(model, tmp_path)


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
