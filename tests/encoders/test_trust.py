"""No file of a model directory is run, and none makes a model contact a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xattn.encoders.openclip.names import TOKENIZER_OPTIONS, require_known_parts
from xattn.errors import CheckpointError
from xattn.model.checkpoint import FORMAT_VERSION, load_model

pytest.importorskip("transformers")

VISION = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32}
TEXT = {"context_length": 16, "vocab_size": 100, "width": 64, "heads": 2, "layers": 1}
PREPROCESS = {
    "size": [32, 32],
    "mode": "RGB",
    "mean": [0, 0, 0],
    "std": [1, 1, 1],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}


def plant(folder: Path, mark: Path) -> None:
    """A tokenizer whose code writes `mark` when it is run."""
    folder.mkdir(parents=True)
    tokenizer = {"tokenizer_class": "Planted", "auto_map": {"AutoTokenizer": ["planted.Planted", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "planted.py").write_text(
        f"open({str(mark)!r}, 'w').write('ran')\n"
        "from transformers import PreTrainedTokenizer\n"
        "class Planted(PreTrainedTokenizer):\n    pass\n"
    )


def saved(directory: Path, text: dict[str, Any], vision: dict[str, Any] | None = None) -> Path:
    model = {"embed_dim": 32, "vision_cfg": vision or VISION, "text_cfg": text}
    section = {"model": model, "preprocess": PREPROCESS, "regions": {}, "templates": ["{}"]}
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(
        json.dumps({"format_version": FORMAT_VERSION, "openclip": section, "attention": {}})
    )
    return directory


@pytest.mark.parametrize("options", [{}, {"trust_remote_code": True}, {"trust_remote_code": "yes"}])
def test_a_planted_tokenizer_is_not_run(tmp_path: Path, options: dict[str, Any]) -> None:
    mark = tmp_path / "ran"
    text = {**TEXT, "hf_tokenizer_name": "tokenizer", "tokenizer_kwargs": options}
    directory = saved(tmp_path / "model", text)
    plant(directory / "tokenizer", mark)
    with pytest.raises(CheckpointError, match=r"auto_map|not allowed"):
        load_model(directory)
    assert not mark.exists()


@pytest.mark.parametrize("options", [{}, {"trust_remote_code": True}])
def test_nor_is_one_of_a_folder_in_open_clips_format(tmp_path: Path, options: dict[str, Any]) -> None:
    mark, folder = tmp_path / "ran", tmp_path / "folder"
    plant(folder, mark)
    text = {**TEXT, "hf_tokenizer_name": str(folder), "tokenizer_kwargs": options}
    model = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model, "preprocess_cfg": PREPROCESS})
    )
    with pytest.raises(CheckpointError):
        load_model(f"openclip:@{folder}")
    assert not mark.exists()


@pytest.mark.parametrize("tower", ["hf-hub:org/name", "hf_hub:o/n", "local-dir:/x", "/x/y", "vit_tinyy"])
def test_towers_are_those_that_timm_ships(tmp_path: Path, tower: str) -> None:
    directory = saved(tmp_path / "model", TEXT, {"image_size": 32, "timm_model_name": tower})
    with pytest.raises(CheckpointError, match="timm"):
        load_model(directory)


def test_known_arguments_of_a_tokenizer_are_taken() -> None:
    text = {**TEXT, "tokenizer_kwargs": dict.fromkeys(TOKENIZER_OPTIONS, None)}
    require_known_parts({"text_cfg": text, "vision_cfg": VISION}, None)
    text["tokenizer_kwargs"]["bpe_path"] = "/etc/passwd"
    with pytest.raises(CheckpointError, match="bpe_path"):
        require_known_parts({"text_cfg": text, "vision_cfg": VISION}, None)
