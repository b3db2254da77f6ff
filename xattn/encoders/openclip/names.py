"""open_clip models by name: which weights, which tokenizer, which prompts.

    openclip:ARCH/PRETRAINED     weights that open_clip knows, such as openclip:ViT-B-16/laion2b_s34b_b88k
    openclip:ARCH@FILE           weights on this disk
    openclip:@DIR                a folder with open_clip_config.json and weights
    hf-hub:ORG/NAME              a model repository in open_clip's format

Weights by PRETRAINED or hf-hub are downloaded once, by open_clip, to its cache. Pickled weights are only
ever read by torch's restricted loader.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import open_clip
import timm
from huggingface_hub import constants
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.pretrained import get_pretrained_cfg
from open_clip.tokenizer import HFTokenizer
from torch import nn

from xattn.encoders.openclip.hub import reachable_hub
from xattn.errors import CheckpointError, MissingExtra, ModelNotFound


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model's weights come from: exactly one of tag, file, directory and hub is given.

    arch: open_clip's name of the architecture, "" where a directory or repository tells it itself
    """

    arch: str = ""
    tag: str | None = None
    file: Path | None = None
    directory: Path | None = None
    hub: str | None = None

    @property
    def identifier(self) -> str:
        """What open_clip's functions call the model."""
        if self.directory is not None:
            return f"local-dir:{self.directory}"
        return f"hf-hub:{self.hub}" if self.hub else self.arch


@dataclass(frozen=True, slots=True)
class Loaded:
    """An open_clip model with all that is needed to build it again.

    model_config: open_clip's `model_cfg`; preprocess_config: its `preprocess_cfg`
    """

    clip: nn.Module
    model_config: dict[str, Any]
    preprocess_config: dict[str, Any]
    tokenizer: Any


def parse_source(name: str) -> Source:
    """The source that a name stands for (without options). Raises ModelNotFound with the valid forms."""
    if name.startswith("hf-hub:"):
        hub = name.removeprefix("hf-hub:")
        if hub.count("/") == 1 and all(hub.split("/")):
            return Source(hub=hub)
        raise ModelNotFound(f"no model {name!r}: expected hf-hub:ORG/NAME")
    rest = name.removeprefix("openclip:")
    arch, at, path = rest.partition("@")
    if at:
        located = Path(path).expanduser()
        if located.is_dir() and (located / "open_clip_config.json").is_file():
            return Source(directory=located)
        if not located.is_file() or not arch:
            raise ModelNotFound(
                f"no model {name!r}: {located} is neither a file with weights (openclip:ARCH@FILE) nor a "
                "folder with an open_clip_config.json (openclip:@DIR)"
            )
        return Source(_known_arch(arch), file=located)
    arch, _, tag = rest.rpartition("/")
    if not arch or not tag:
        raise ModelNotFound(
            f"no model {name!r}: expected openclip:ARCH/PRETRAINED, openclip:ARCH@FILE or openclip:@DIR; "
            "xattn models lists them"
        )
    arch = _known_arch(arch)
    if not get_pretrained_cfg(arch, tag):
        tags = open_clip.list_pretrained_tags_by_model(arch)
        raise ModelNotFound(
            f"open_clip has no weights {tag!r} of {arch}; it has {', '.join(tags) or 'none'}"
        )
    return Source(arch, tag=tag)


def _known_arch(arch: str) -> str:
    arch = arch.replace("/", "-")
    known = open_clip.list_models()
    if arch not in known:
        near = get_close_matches(arch, known, n=4, cutoff=0.5) or known[:4]
        raise ModelNotFound(
            f"open_clip has no architecture {arch!r}; near it are {', '.join(near)}. xattn models lists all"
        )
    return arch


def load_clip(source: Source) -> Loaded:
    """Loads a model and its tokenizer, downloading what is not on this machine, the small parts first.

    Raises ModelNotFound if a part can be neither found nor downloaded, CheckpointError if the weights are
    damaged or of another architecture, MissingExtra if the tokenizer needs a package that is not installed.
    """
    described = str(source.file or source.directory or source.hub or f"{source.arch}/{source.tag}")
    if source.file is not None or source.directory is not None:
        return _load_parts(source, described)
    with reachable_hub() as reachable:
        try:
            return _load_parts(source, described)
        except ModelNotFound as error:
            if reachable:
                raise
            raise ModelNotFound(
                f"{described} is not on this machine, and {constants.ENDPOINT} does not answer. Connect to "
                "the network, or name a file on this disk: openclip:ARCH@FILE"
            ) from error


def _load_parts(source: Source, described: str) -> Loaded:
    tag_config = get_pretrained_cfg(source.arch, source.tag) if source.tag else {}
    try:
        model_config: dict[str, Any] = open_clip.get_model_config(source.identifier)
        require_transformers(model_config["text_cfg"], described)
        require_known_parts(model_config, source.directory)
    except (MissingExtra, CheckpointError):
        raise
    except Exception as error:  # open_clip and its hub client each raise kinds of their own
        raise _unusable(source, described, error) from error
    tokenizer = _load_text_parts(source, model_config["text_cfg"], described)
    try:
        clip = open_clip.create_model(
            source.identifier,
            pretrained=str(source.file) if source.file else source.tag,
            force_quick_gelu=bool(tag_config.get("quick_gelu")),
            force_preprocess_cfg=_usual_preprocessing(source.arch) if source.file else None,
            require_pretrained=True,
            weights_only=True,
        )
    except Exception as error:  # as above, and torch
        raise _unusable(source, described, error) from error
    if tag_config.get("quick_gelu"):
        model_config["quick_gelu"] = True
    return Loaded(clip, model_config, dict(clip.visual.preprocess_cfg), tokenizer)


def _unusable(source: Source, described: str, error: Exception) -> CheckpointError | ModelNotFound:
    """What to raise when a model's config or weights cannot be had."""
    if source.file is not None or source.directory is not None:
        return CheckpointError(
            f"{described} holds no weights of {source.arch or 'its config'} that can be read: {error}"
        )
    return ModelNotFound(
        f"the weights of {described} are not on this machine and could not be downloaded: {error}. "
        "Connect to the network, or name a file on this disk: openclip:ARCH@FILE"
    )


def require_transformers(text_config: Mapping[str, Any], described: str) -> None:
    """Raises MissingExtra if the text side is read by transformers and that is not installed."""
    needs = text_config.get("hf_tokenizer_name") or text_config.get("hf_model_name")
    if needs and find_spec("transformers") is None:
        raise MissingExtra("transformers", "hf", f"the tokenizer of {described}")


TOKENIZER_OPTIONS = frozenset(
    {"additional_special_tokens", "clean", "language", "reduction_mask", "strip_sep_token"}
)
"""Arguments of a tokenizer that a model's config may give: none of them names a file or runs code."""


def require_known_parts(model_config: Mapping[str, Any], directory: Path | None) -> None:
    """Checks that a model's config names nothing but parts that open_clip and timm ship.

    directory: where the config's files lie, if on this disk

    Raises:
        CheckpointError: an argument of the tokenizer is not one of TOKENIZER_OPTIONS, a tower is none that
            timm ships (such as one on a hub or at a path), or a file asks for code beside it to be run.
    """
    text, vision = model_config.get("text_cfg", {}), model_config.get("vision_cfg", {})
    unknown = sorted(set(text.get("tokenizer_kwargs") or {}) - TOKENIZER_OPTIONS)
    if unknown:
        raise CheckpointError(
            f"the model's config gives its tokenizer {', '.join(unknown)}, which is not allowed; valid are "
            f"{', '.join(sorted(TOKENIZER_OPTIONS))}. A model's files are never run"
        )
    require_timm_model(vision.get("timm_model_name"))
    folders = [directory, Path(str(text.get("hf_tokenizer_name") or "")), _beside(directory, text)]
    for folder in folders:
        if folder is not None and folder.is_dir():
            _require_no_code(folder)


def _beside(directory: Path | None, text: Mapping[str, Any]) -> Path | None:
    name = text.get("hf_tokenizer_name")
    return None if directory is None or not name else directory / str(name)


def _require_no_code(folder: Path) -> None:
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # whoever reads the file will say what is wrong with it
        if isinstance(content, dict) and "auto_map" in content:
            raise CheckpointError(
                f"{path} asks for Python code beside it to be run (auto_map). xattn runs no code of a "
                "model's files: use a model with a tokenizer that transformers ships"
            )


def require_timm_model(name: object) -> None:
    """Raises CheckpointError unless timm ships an architecture of this name, or there is none."""
    if name is not None and not (isinstance(name, str) and timm.is_model(name)):
        near = get_close_matches(str(name), timm.list_models(), n=4)
        raise CheckpointError(
            f"the model's config names a tower {name!r} that timm does not ship"
            + (f"; near it are {', '.join(near)}" if near else "")
        )


def _load_text_parts(source: Source, text_config: Mapping[str, Any], described: str) -> Any:
    """The tokenizer. Of a text tower from transformers its config too, which open_clip looks up by name.

    Raises CheckpointError if a folder lacks it, ModelNotFound if it cannot be downloaded.
    """
    name = text_config.get("hf_tokenizer_name")
    try:
        plain = {"trust_remote_code": False} if name else {}
        tokenizer = open_clip.get_tokenizer(source.identifier, **plain)
        if text_config.get("hf_model_name"):
            name = text_config["hf_model_name"]
            from transformers import AutoConfig

            AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # transformers and its hub client raise many kinds
        if source.directory is not None:
            raise CheckpointError(
                f"{described} does not hold its tokenizer (tokenizer.json, tokenizer_config.json): {error}"
            ) from error
        raise ModelNotFound(
            f"the tokenizer or text config {name!r} of {described} is not on this machine and could not be "
            f"downloaded: {error}. Connect to the network once, or name a folder with the weights and the "
            "tokenizer: openclip:@DIR"
        ) from error
    return tokenizer


def _usual_preprocessing(arch: str) -> dict[str, Any] | None:
    """How pictures are prepared for the published weights of an architecture, for weights from a file."""
    tags = open_clip.list_pretrained_tags_by_model(arch)
    return get_pretrained_cfg(arch, tags[0]) if tags else None


def build_clip(model_config: Mapping[str, Any], text_config_dir: Path | None = None) -> nn.Module:
    """An open_clip model of this `model_cfg` with random weights. Never downloads.

    text_config_dir: holds the config of a text tower from transformers, where there is one.
    """
    require_known_parts(model_config, text_config_dir)
    config = deepcopy(dict(model_config))
    custom_text = config.pop("custom_text", False)
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    if config["text_cfg"].get("hf_model_name"):
        config["text_cfg"]["hf_model_pretrained"] = False
        config["text_cfg"]["hf_model_name"] = str(text_config_dir)
        custom_text = True
    if "multimodal_cfg" in config:
        return CoCa(**config)
    return CustomTextCLIP(**config) if custom_text else CLIP(**config)


def save_text_parts(clip: nn.Module, tokenizer: Any, tokenizer_dir: Path, config_dir: Path) -> None:
    """Writes what the text side needs besides weights, so that it loads without a network."""
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(str(tokenizer_dir))
    config = getattr(getattr(clip, "text", None), "config", None)  # of a tower from transformers
    if config is not None and hasattr(config, "save_pretrained"):
        config.save_pretrained(str(config_dir))


def read_tokenizer_of(model_config: Mapping[str, Any], saved: Path) -> Any:
    """The tokenizer of a saved model, from the directory `saved`. Nothing in it is ever run.

    Raises CheckpointError if its files are missing, damaged or name code, MissingExtra as `load_clip`.
    """
    text = model_config["text_cfg"]
    require_transformers(text, str(saved))
    require_known_parts(model_config, saved)
    length = text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    options = text.get("tokenizer_kwargs") or {}
    if not text.get("hf_tokenizer_name"):
        return open_clip.SimpleTokenizer(context_length=length, **options)
    try:
        mode = text.get("tokenizer_mode")
        return HFTokenizer(
            str(saved), context_length=length, tokenizer_mode=mode, trust_remote_code=False, **options
        )
    except Exception as error:  # transformers raises many kinds
        raise CheckpointError(f"{saved} does not hold a tokenizer that can be read: {error}") from error


def templates_of(prompts: str, model_name: str) -> tuple[str, ...]:
    """Templates of a named set: none, photo, simple (7) or imagenet (80), as CLIP's authors use them.

    model_name: decides the wording of "photo". Raises ValueError for other names.
    """
    sigmoid = "siglip" in model_name.lower()
    sets = {
        "none": ("{}",),
        "photo": ("This is a photo of {}.",) if sigmoid else ("a photo of {}.",),
        "simple": tuple(fill("{}") for fill in open_clip.SIMPLE_IMAGENET_TEMPLATES),
        "imagenet": tuple(fill("{}") for fill in open_clip.OPENAI_IMAGENET_TEMPLATES),
    }
    if prompts not in sets:
        raise ValueError(f"unknown prompts {prompts!r}; valid are {', '.join(sets)}")
    return sets[prompts]
