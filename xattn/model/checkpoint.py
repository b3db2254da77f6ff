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

from xattn.attention import CrossAttention
from xattn.encoders.hybrid.fusion import FusionConfig
from xattn.encoders.hybrid.text import SentenceConfig, SentenceEncoder, Tokenizer, read_tokenizer
from xattn.encoders.hybrid.vision import HybridConfig, HybridEncoder
from xattn.encoders.onnx.graphs import use_graphs
from xattn.errors import CheckpointError, ModelNotFound
from xattn.model import quantize
from xattn.model.calibration import Calibration
from xattn.model.hubness import Hubness
from xattn.model.model import XAttnModel

FORMAT_VERSION = 4
PRETRAINED_PREFIXES = ("openclip:", "hf-hub:")
DEFAULT_MODEL = Path(__file__).parents[1] / "models" / "default"


def load_model(name: str | Path = "default", device: str | torch.device | None = None) -> XAttnModel:
    """Loads the model that ships with xattn ("default"), a model directory, or an open_clip model.

    name: an open_clip model is openclip:ARCH/PRETRAINED, openclip:ARCH@FILE or hf-hub:ORG/NAME (see
    `xattn.model.zero_shot`). Only such a name may download, and only what is not on this machine.
    device: where to put it; by default a CUDA GPU if there is one, else the CPU.
    Raises ModelNotFound if there is no such model, CheckpointError if its files are damaged or newer.
    """
    if str(name).startswith(PRETRAINED_PREFIXES):
        from xattn.model.zero_shot import load_pretrained  # open_clip takes seconds to import

        model = load_pretrained(str(name))
    else:
        model = _load_directory(DEFAULT_MODEL if str(name) == "default" else Path(name), str(name))
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device)


def _load_directory(directory: Path, name: str) -> XAttnModel:
    if not (directory / "config.json").is_file():
        raise ModelNotFound(
            f"no model {name!r}: expected 'default' or a directory with a config.json, and {directory} has "
            "none; or openclip:ARCH/PRETRAINED or hf-hub:ORG/NAME, which xattn models lists"
        )
    config = _read_config(directory)
    if "openclip" in config:
        from xattn.model.zero_shot import rebuild

        _check_keys("config.json", config, ("openclip", "attention", "calibration", "hubness"))
        calibration = _configured(Calibration, "calibration", config)
        width = config["openclip"].get("model", {}).get("embed_dim", 1)
        model = rebuild(config["openclip"], _attention(width, config), calibration, directory, name)
        model.hubness = _hubness(model.dim, config)
    else:
        model = build_model(config, read_tokenizer(directory / "tokenizer.json"), name=name)
    _load_weights(model, directory / "model.safetensors")
    use_graphs(model.vision, model.text, directory)
    return model


def _attention(width: int, config: Mapping[str, Any]) -> CrossAttention:
    section = config.get("attention", {})
    _check_keys("attention", section, ("num_heads", "norm"))
    return CrossAttention(width, section.get("num_heads", 4), section.get("norm", "layer"))


def _hubness(width: int, config: Mapping[str, Any]) -> Hubness:
    section = config.get("hubness", {})
    _check_keys("hubness", section, ("num_captions", "num_pictures", "scale"))
    return Hubness(width, **section)


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
    return XAttnModel(
        HybridEncoder(vision),
        SentenceEncoder(text, tokenizer),
        _attention(fusion.dim, config),
        calibration,
        name=name,
        hubness=_hubness(fusion.dim, config),
    )


def save_model(model: XAttnModel, directory: Path, card: str, *, quantized: bool | None = None) -> None:
    """Writes a model directory; `card` is the text of its README.md.

    quantized: pack the weights (see the module docstring); False: all in half precision; None: packed for
    xattn's own towers, as they are for open_clip's.
    Files are written beside their names and renamed, weights before config: a directory whose
    config.json exists is complete. Raises CheckpointError for towers of another kind.
    """
    own = isinstance(model.vision, HybridEncoder) and isinstance(model.text, SentenceEncoder)
    config = {"format_version": FORMAT_VERSION, **(_own_towers(model) if own else _openclip_towers(model))}
    config["attention"] = {"num_heads": model.attention.num_heads}
    if model.attention.norm != "layer":
        config["attention"]["norm"] = model.attention.norm
    config["calibration"] = asdict(model.calibration)
    config["hubness"] = {
        "num_captions": len(model.hubness.captions),
        "num_pictures": len(model.hubness.pictures),
        "scale": model.hubness.scale,
    }
    directory.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    if quantized or (quantized is None and own):
        state = quantize.pack_state(state)
    elif quantized is False:
        state = {key: value.half() for key, value in state.items()}

    def write(name: str, save: Any) -> None:
        temporary = directory / f".{name}.tmp"
        save(temporary)
        os.replace(temporary, directory / name)

    write("model.safetensors", lambda path: save_file(state, path))
    if isinstance(model.text, SentenceEncoder):
        tokenizer = model.text.tokenizer
        write("tokenizer.json", lambda path: tokenizer.save(str(path)))
    else:
        from xattn.model.zero_shot import save_extras

        save_extras(model, directory)
    write("README.md", lambda path: path.write_text(card, encoding="utf-8"))
    write(
        "config.json", lambda path: path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    )


def _own_towers(model: XAttnModel) -> dict[str, Any]:
    assert isinstance(model.vision, HybridEncoder)
    assert isinstance(model.text, SentenceEncoder)
    vision = asdict(model.vision.config)
    fusion = vision.pop("fusion")
    return {"vision": vision, "fusion": fusion, "text": asdict(model.text.config)}


def _openclip_towers(model: XAttnModel) -> dict[str, Any]:
    from xattn.model.zero_shot import describe

    return {"openclip": describe(model)}


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        version = config.pop("format_version")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a model's config: {error!r}") from error
    if version != FORMAT_VERSION:
        remedy = "train it again" if str(version) < str(FORMAT_VERSION) else "upgrade xattn"
        raise CheckpointError(
            f"{path} has format version {version}, this xattn reads {FORMAT_VERSION}: {remedy}"
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
