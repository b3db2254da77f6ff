"""Model directories and the default towers, with random weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from xattn.encoders.hybrid.vision import SHAPES, HybridEncoder, nearest_shape
from xattn.errors import CheckpointError, ModelNotFound
from xattn.model import XAttnModel
from xattn.model.checkpoint import build_model, load_model, save_model

CONFIG = {
    "fusion": {"dim": 32},
    "text": {"dim": 32, "vocab_size": 8, "num_layers": 1},
    "attention": {"num_heads": 2},
    "calibration": {"logit_scale": 7.0, "logit_bias": -2.0, "pooled_weight": 0.25},
}


@pytest.fixture(scope="module")
def model() -> XAttnModel:
    torch.manual_seed(0)
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "a": 2, "red": 3, "dog": 4, "cat": 5, "##s": 6, "[CLS]": 7}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 7)])
    return build_model(CONFIG, tokenizer, name="tiny")


@pytest.fixture(scope="module")
def saved(model: XAttnModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_model(model, directory, card="# A model\n")
    return directory


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def pictures() -> list[Image.Image]:
    generator = torch.Generator().manual_seed(5)
    sizes = [(300, 400), (400, 300), (333, 333), (120, 500), (90, 120)]
    noise = [torch.rand(h // 10, w // 10, 3, generator=generator).mul(255).byte().numpy() for h, w in sizes]
    return [Image.fromarray(n).resize((w, h)) for n, (h, w) in zip(noise, sizes, strict=True)]


def test_round_trip(model: XAttnModel, saved: Path) -> None:
    loaded = load_model(saved, device="cpu")
    assert loaded.calibration == model.calibration
    assert loaded.vision.config == model.vision.config
    texts = ["a red dog", "cats", ""]
    similarity = (loaded.encode_texts(texts) * model.encode_texts(texts)).sum(-1)
    assert similarity.min() > 0.99
    assert load_model(saved, device="cpu").fingerprint == loaded.fingerprint
    assert not list(saved.glob(".*.tmp"))


def test_unquantized_round_trip_is_nearly_exact(model: XAttnModel, tmp_path: Path) -> None:
    save_model(model, tmp_path, card="", quantized=False)
    loaded = load_model(tmp_path, device="cpu")
    torch.testing.assert_close(
        loaded.encode_texts(["a red dog"]), model.encode_texts(["a red dog"]), atol=2e-3, rtol=0
    )


def test_mixed_shapes_keep_their_order_and_give_what_each_gives_alone(model: XAttnModel) -> None:
    batch = pictures()
    together = model.encode_images(batch)
    assert together.sizes == ((15, 20), (20, 15), (17, 17), (15, 20), (15, 20))
    for i, picture in enumerate(batch):
        alone = model.encode_images([picture])
        torch.testing.assert_close(together[i].regions, alone.regions, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(together[i].pooled, alone.pooled, atol=1e-4, rtol=1e-3)


def test_training_batches_of_mixed_shapes_give_what_encoding_gives(model: XAttnModel) -> None:
    """`Fusion` with padding and masks, as training calls it, against one shape at a time."""
    from xattn.encoders.hybrid.fusion import TowerFeatures, upsampling

    vision = model.vision
    assert isinstance(vision, HybridEncoder)
    batch = pictures()[:3]
    padded = TowerFeatures(
        cells=torch.zeros(3, 144, 1280),
        textures=torch.zeros(3, 300, 120),
        tokens=torch.zeros(3, 301, 384),
        early=torch.zeros(3, 301, 384),
        prior=torch.zeros(3, 145, 384),
        colors=torch.zeros(3, 300, 6),
    )
    resample, mask = torch.zeros(3, 300, 144), torch.zeros(3, 300, dtype=torch.bool)
    with torch.inference_mode():
        for i, picture in enumerate(batch):
            shape = nearest_shape((picture.height, picture.width))
            vit, conv = vision.preprocess(picture)
            for row, found in zip(padded, vision.features(vit[None], conv[None]), strict=True):
                row[i, : found.shape[1]] = found[0]
            matrix = upsampling(shape.conv_grid, shape.grid)
            count = matrix.shape[0]
            resample[i, :count, : matrix.shape[1]] = matrix
            mask[i, :count] = True
        regions, pooled = vision.fusion(padded, resample, mask)
    expected = model.encode_images(batch)
    torch.testing.assert_close(regions * mask[..., None], expected.regions, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(pooled, expected.pooled, atol=1e-4, rtol=1e-3)


def test_shapes_follow_the_aspect_ratio() -> None:
    assert nearest_shape((480, 640)).grid == (15, 20)
    assert nearest_shape((640, 480)).grid == (20, 15)
    assert nearest_shape((500, 520)).grid == (17, 17)
    for shape in SHAPES:
        assert (shape.grid[0] * 14, shape.grid[1] * 14) == shape.vit


def test_texts(model: XAttnModel) -> None:
    embeddings = model.encode_texts(["a red dog", "dog " * 500, "", "☃"])
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(4))
    alone = model.encode_texts(["a red dog"])
    torch.testing.assert_close(embeddings[:1], alone, atol=1e-5, rtol=1e-4)  # padding changes nothing
    assert model.encode_texts([]).shape == (0, 32)


def test_unknown_names_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="expected 'default' or a directory"):
        load_model(tmp_path / "nowhere")


def test_unknown_keys_are_refused_with_the_valid_ones(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["fusion"]["dimm"] = 3
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="unknown dimm; valid are dim, "):
        load_model(copy)


def test_newer_versions_are_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"format_version": 99}))
    with pytest.raises(CheckpointError, match="version 99"):
        load_model(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("keep", [0, 100])
def test_damaged_files_are_refused_by_name(copy: Path, name: str, keep: int) -> None:
    (copy / name).write_bytes((copy / name).read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=name):
        load_model(copy)


def test_weights_of_another_config_are_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["text"]["num_layers"] = 2
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not hold this model's weights"):
        load_model(copy)


# --- saving over an older model -------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process."""


def dies_at(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the call-th change of a directory on, none is made any more."""
    left = call

    def counted(function: Any) -> Any:
        def run(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return function(*arguments, **options)

        return run

    for name in ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "link", "symlink"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


def test_killed_at_any_moment_of_a_save_the_directory_holds_one_whole_model(
    model: XAttnModel, saved: Path, tmp_path: Path
) -> None:
    other = build_model(CONFIG, model.text.tokenizer, name="other")  # type: ignore[arg-type]
    other.calibration = replace(other.calibration, nothing_below=0.75)
    marks = {0.1: weights_of(load_model(saved, device="cpu")), 0.75: None}
    save_model(other, tmp_path / "alone", card="# Other\n")
    marks[0.75] = weights_of(load_model(tmp_path / "alone", device="cpu"))
    seen = set()
    for call in range(40):
        directory = Path(shutil.copytree(saved, tmp_path / f"at-{call}"))
        with pytest.MonkeyPatch.context() as patch:
            dies_at(call, patch)
            try:
                save_model(other, directory, card="# Other\n")
                ended = True
            except Killed:
                ended = False
        loaded = load_model(directory, device="cpu")
        mark = loaded.calibration.nothing_below
        seen.add(mark)
        assert torch.equal(weights_of(loaded), marks[mark]), f"killed at change {call}"
        if ended:
            break
    assert ended
    assert seen == set(marks)
    # And in the end nothing of the older model is left, and a third one can be saved over it.
    assert len(list(directory.glob("*.safetensors"))) == 1
    save_model(model, directory, card="# A model\n")
    assert torch.equal(weights_of(load_model(directory, device="cpu")), marks[0.1])
    assert len(list(directory.glob("*.safetensors"))) == 1


def weights_of(model: XAttnModel) -> torch.Tensor:
    return model.attention.query.weight.detach().clone()


def test_a_config_names_no_other_file(copy: Path, tmp_path: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    shutil.copy(copy / "model.safetensors", tmp_path / "elsewhere.safetensors")
    config["files"]["weights"] = "../elsewhere.safetensors"
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_model(copy)


@pytest.mark.parametrize("tower", ["hf-hub:org/name", "local-dir:/x", ""])
@pytest.mark.parametrize("key", ["conv", "vit"])
def test_towers_are_those_that_timm_ships(copy: Path, key: str, tower: object) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["vision"][key] = tower
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="timm"):
        load_model(copy)


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 40),
    st.floats(allow_nan=False),
    st.sampled_from(["", "256", "layer", [], {}, [1], {"a": 1}]),
)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_under_any_change_of_its_config_a_directory_is_refused_or_the_same_model(
    data: st.DataObject, saved: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = Path(shutil.copytree(saved, tmp_path_factory.mktemp("odd") / "model"))
    config = json.loads((directory / "config.json").read_text())
    section = data.draw(st.sampled_from(sorted(set(config) - {"vision"})))
    if isinstance(config[section], dict) and data.draw(st.booleans()):
        config[section][data.draw(st.sampled_from(sorted(config[section])))] = data.draw(ODD)
    else:
        config[section] = data.draw(ODD)
    (directory / "config.json").write_text(json.dumps(config))
    # As a user meets it: without the tests' own check of types.
    with jaxtyping_off(), suppress(CheckpointError):
        loaded = load_model(directory, device="cpu")
        assert torch.equal(weights_of(loaded), weights_of(load_model(saved, device="cpu")))
    shutil.rmtree(directory)


@contextmanager
def jaxtyping_off() -> Iterator[None]:
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
