"""Model directories: config.json, model.safetensors, tokenizer.json, README.md (the model card).

Weights are shipped as six-bit integers with one half-precision scale per group of 64 along a row,
and expanded on load; what is small or sensitive stays in half precision. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import shutil
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
from xattn.encoders.onnx.graphs import remove_graphs, use_graphs
from xattn.errors import CheckpointError, ModelNotFound
from xattn.files import replacing, write_text
from xattn.model import quantize
from xattn.model.calibration import Calibration
from xattn.model.directory import foreign_entry
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
    names = _checked_names(config.pop("files", {}))
    try:
        model = _untrained(config, names, directory, name)
    except UNFIT as error:
        raise CheckpointError(f"{directory}/config.json describes no model: {error!r}") from error
    _load_weights(model, directory / names["weights"])
    use_graphs(model.vision, model.text, directory)
    return model


UNFIT = (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RuntimeError, AssertionError)
"""What parts of a model raise for sizes that do not fit each other."""


def _untrained(
    config: Mapping[str, Any], names: Mapping[str, str], directory: Path, name: str
) -> XAttnModel:
    """The model of a directory's config, before its weights."""
    if "openclip" not in config:
        return build_model(config, read_tokenizer(directory / names["tokenizer"]), name=name)
    from xattn.model.zero_shot import rebuild

    _check_keys("config.json", config, ("openclip", "attention", "calibration", "hubness"))
    calibration = _configured(Calibration, "calibration", config)
    attention = _attention(config["openclip"].get("model", {}).get("embed_dim", 1), config)
    model = rebuild(config["openclip"], attention, calibration, directory, name, names)
    model.hubness = _hubness(model.dim, config)
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
    At every moment the directory loads as the model it held before or as the new one, whole: the config,
    written last, names the files that belong to it. Graphs of the model before are removed.

    Raises:
        CheckpointError: the towers are of another kind, or the directory holds something else than a model.
        OSError: the directory cannot be written to.
    """
    foreign = foreign_entry(directory)
    if foreign is not None:
        raise CheckpointError(
            f"{directory} holds {foreign!r} and is no model directory of xattn; it is left as it is. "
            "Name an empty directory or one that does not exist."
        )
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
    names = _free_names(directory)
    config["files"] = names
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    if quantized or (quantized is None and own):
        state = quantize.pack_state(state)
    elif quantized is False:
        state = {key: value.half() for key, value in state.items()}

    remove_graphs(directory)
    with replacing(directory / names["weights"]) as temporary:
        save_file(state, temporary)
    if isinstance(model.text, SentenceEncoder):
        with replacing(directory / names["tokenizer"]) as temporary:
            model.text.tokenizer.save(str(temporary))
    else:
        from xattn.model.zero_shot import save_extras

        save_extras(model, directory, names)
    write_text(directory / "config.json", json.dumps(config, indent=2) + "\n")
    write_text(directory / "README.md", card)
    _remove_unnamed(directory, names)


FILES = {
    "weights": ("model.safetensors", "model-2.safetensors"),
    "tokenizer": ("tokenizer.json", "tokenizer-2.json"),
    "tokenizer_dir": ("tokenizer", "tokenizer-2"),
    "text_config_dir": ("text_config", "text_config-2"),
}
"""Names of a model's parts. A save takes those of the two that the present config does not name."""


def _free_names(directory: Path) -> dict[str, str]:
    used = _named_files(directory)
    return {part: next(n for n in names if n != used.get(part)) for part, names in FILES.items()}


def _named_files(directory: Path) -> dict[str, str]:
    """Names that a directory's config gives its parts; {} where there is no config that can be read."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        return _checked_names(config.get("files", {}))
    except (OSError, ValueError, AttributeError, CheckpointError):
        return {}


def _checked_names(found: Mapping[str, Any]) -> dict[str, str]:
    """Every part's name, the first one where the config is silent.

    Raises:
        CheckpointError: an unknown part, or a name that is none of a part's two.
    """
    _check_keys("files", found, tuple(FILES))
    names = {part: found.get(part, choices[0]) for part, choices in FILES.items()}
    for part, name in names.items():
        if name not in FILES[part]:
            raise CheckpointError(f"files: {part} is {name!r}; valid are {', '.join(FILES[part])}")
    return names


def _remove_unnamed(directory: Path, names: Mapping[str, str]) -> None:
    """What belonged to the model that was here before."""
    for part, choices in FILES.items():
        for name in choices:
            path = directory / name
            if name != names[part] and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif name != names[part]:
                path.unlink(missing_ok=True)


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
        older = isinstance(version, int) and version < FORMAT_VERSION
        remedy = "train it again" if older else "upgrade xattn"
        raise CheckpointError(
            f"{path} has format version {version}, this xattn reads {FORMAT_VERSION}: {remedy}"
        )
    return dict(config)


def _check_keys(where: str, found: Any, valid: tuple[str, ...]) -> None:
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{where}: expected an object with {', '.join(valid)}, got {found!r}")
    unknown = sorted(set(found) - set(valid))
    if unknown:
        raise CheckpointError(f"{where}: unknown {', '.join(unknown)}; valid are {', '.join(valid)}")


def _configured(kind: Any, section: str, config: Mapping[str, Any], **extra: Any) -> Any:
    values = config.get(section, {})
    known = {f.name: str(f.type) for f in fields(kind) if f.name not in extra}
    _check_keys(section, values, tuple(known))
    for name, value in values.items():
        expected: Any = {"int": int, "float": (int, float), "str": str}[known[name]]
        if isinstance(value, bool) or not isinstance(value, expected):
            raise CheckpointError(f"{section}: {name} is {value!r}; expected {known[name]}")
    return kind(**values, **extra)


def _load_weights(model: XAttnModel, path: Path) -> None:
    try:
        state: dict[str, Tensor] = quantize.unpack_state(load_file(path))
        model.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"{path} does not hold this model's weights (damaged or truncated?): {error}"
        ) from error
