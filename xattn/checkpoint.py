"""Model directories: config.json, model.safetensors, tokenizer.json, README.md (the model card).

Weights are shipped as six-bit integers with one half-precision scale per group of 64 along a row,
and expanded on load; what is small or sensitive stays in half precision. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from xattn import quantize
from xattn.attention import CrossAttention
from xattn.encoders.fusion import FusionConfig
from xattn.encoders.text import SentenceConfig, SentenceEncoder, Tokenizer, read_tokenizer
from xattn.encoders.vision import HybridConfig, HybridEncoder
from xattn.errors import CheckpointError, ModelNotFound
from xattn.hubness import Hubness
from xattn.model import Calibration, XAttnModel

FORMAT_VERSION = 1
DEFAULT_MODEL = Path(__file__).parent / "models" / "default"


def load_model(name: str | Path = "default", device: str | torch.device | None = None) -> XAttnModel:
    """Loads the model that ships with xattn ("default") or a model directory. Never downloads.

    device: where to put it; by default a CUDA GPU if there is one, else the CPU.
    Raises ModelNotFound if there is no such model, CheckpointError if its files are damaged or newer.
    """
    directory = DEFAULT_MODEL if str(name) == "default" else Path(name)
    if not (directory / "config.json").is_file():
        raise ModelNotFound(
            f"no model {str(name)!r}: expected 'default' or a directory with a config.json, "
            f"and {directory} has none"
        )
    config = _read_config(directory)
    tokenizer = read_tokenizer(directory / "tokenizer.json")
    model = build_model(config, tokenizer, name=str(name))
    _load_weights(model, directory / "model.safetensors")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device)


def build_model(config: Mapping[str, Any], tokenizer: Tokenizer, name: str) -> XAttnModel:
    """An untrained model of the given config (the mapping in config.json, without its version).

    Raises CheckpointError for keys that no part knows, listing those that are valid.
    """
    known = ("vision", "fusion", "text", "attention", "calibration", "hubness")
    _check_keys("config.json", config, known)
    fusion = _configured(FusionConfig, "fusion", config)
    vision = _configured(HybridConfig, "vision", config, fusion=fusion)
    text = _configured(SentenceConfig, "text", config)
    calibration = _configured(Calibration, "calibration", config)
    attention = config.get("attention", {})
    _check_keys("attention", attention, ("num_heads",))
    hubness = config.get("hubness", {})
    _check_keys("hubness", hubness, ("num_captions", "num_pictures", "scale"))
    return XAttnModel(
        HybridEncoder(vision),
        SentenceEncoder(text, tokenizer),
        CrossAttention(fusion.dim, attention.get("num_heads", 4)),
        calibration,
        name=name,
        hubness=Hubness(fusion.dim, **hubness),
    )


def save_model(model: XAttnModel, directory: Path, card: str, *, quantized: bool = True) -> None:
    """Writes a model directory; `card` is the text of its README.md.

    quantized: pack the weights (see the module docstring); otherwise all are half precision.
    Files are written beside their names and renamed, weights before config: a directory whose
    config.json exists is complete.
    """
    if not isinstance(model.vision, HybridEncoder) or not isinstance(model.text, SentenceEncoder):
        raise CheckpointError("only models made of HybridEncoder and SentenceEncoder can be saved so far")
    directory.mkdir(parents=True, exist_ok=True)
    vision = asdict(model.vision.config)
    config = {
        "format_version": FORMAT_VERSION,
        "vision": {key: value for key, value in vision.items() if key != "fusion"},
        "fusion": vision["fusion"],
        "text": asdict(model.text.config),
        "attention": {"num_heads": model.attention.num_heads},
        "calibration": asdict(model.calibration),
        "hubness": {
            "num_captions": len(model.hubness.captions),
            "num_pictures": len(model.hubness.pictures),
            "scale": model.hubness.scale,
        },
    }
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    packed = quantize.pack_state(state) if quantized else {k: v.half() for k, v in state.items()}

    def write(name: str, save: Any) -> None:
        temporary = directory / f".{name}.tmp"
        save(temporary)
        os.replace(temporary, directory / name)

    write("model.safetensors", lambda path: save_file(packed, path))
    write("tokenizer.json", lambda path: model.text.tokenizer.save(str(path)))
    write("README.md", lambda path: path.write_text(card, encoding="utf-8"))
    write(
        "config.json", lambda path: path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    )


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        version = config.pop("format_version")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a model's config: {error!r}") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, this xattn reads {FORMAT_VERSION}: upgrade xattn"
        )
    return dict(config)


def _check_keys(where: str, found: Mapping[str, Any], valid: tuple[str, ...]) -> None:
    unknown = sorted(set(found) - set(valid))
    if unknown:
        raise CheckpointError(f"{where}: unknown {', '.join(unknown)}; valid are {', '.join(valid)}")


def _configured(kind: Any, section: str, config: Mapping[str, Any], **extra: Any) -> Any:
    values = config.get(section, {})
    _check_keys(section, values, tuple(f.name for f in fields(kind) if f.name not in extra))
    return kind(**values, **extra)


def _load_weights(model: XAttnModel, path: Path) -> None:
    try:
        state: dict[str, Tensor] = quantize.unpack_state(load_file(path))
        model.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"{path} does not hold this model's weights (damaged or truncated?): {error}"
        ) from error
