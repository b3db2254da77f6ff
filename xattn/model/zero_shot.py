"""Models that were trained elsewhere, made ready for search with maps without any training.

A name may end in options, as a web address does:

    openclip:ViT-B-16/laion2b_s34b_b88k?method=naclip&regions=400

    method        dense method for region features (see `xattn.encoders.openclip.dense`)
    regions       about how many regions a picture gets
    windows       1: the picture is seen through overlapping windows; for many regions
    pooled        own: open_clip's exact embedding; regions: from the regions' view, in one pass less
    precision     fp32, bf16 or fp16: of the vision tower's matrix products
    prompts       none, photo, simple or imagenet: sentences that a text is put into
    temperature   of the attention over cosines
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from xattn.attention import CrossAttention
from xattn.encoders.openclip.model import OpenClipText, OpenClipVision, RegionConfig
from xattn.encoders.openclip.names import (
    Loaded,
    build_clip,
    load_clip,
    parse_source,
    read_tokenizer_of,
    save_text_parts,
    templates_of,
)
from xattn.errors import CheckpointError, ModelNotFound
from xattn.model.calibration import Calibration
from xattn.model.model import XAttnModel

TEMPERATURE = 50.0
"""Of the untrained attention. Cosines of CLIP's regions with a text differ by about 0.1 between what it
names and what it does not, so the one weighs e⁵ as much as the other. Not tuned on data."""
POOLED_WEIGHT = 0.75
"""Untrained, the pooled embedding ranks better than the attended regions; it leads."""
CLIP_MIDPOINT = 0.25
"""Cosine that counts as probability ½ for models trained with softmax, which know no such point: between
what matching and unmatched pairs usually have. Rough until calibrated on data."""
OPTIONS = ("method", "regions", "windows", "pooled", "precision", "prompts", "temperature")


def load_pretrained(name: str) -> XAttnModel:
    """The model of a name, on the CPU. May download (see `xattn.encoders.openclip.names`).

    Raises ModelNotFound if no model answers to it, CheckpointError if its weights cannot be used,
    MissingExtra if its tokenizer needs a package that is not installed.
    """
    plain, _, query = name.partition("?")
    options = _options(name, query)
    source = parse_source(plain)
    try:
        regions = RegionConfig(
            method=options.get("method", "auto"),
            num_regions=int(options["regions"]) if "regions" in options else None,
            windows=options.get("windows", "0") not in ("0", "false", "no"),
            pooled=options.get("pooled", "own"),
            precision=options.get("precision", "fp32"),
        )
        templates = templates_of(options.get("prompts", "none"), plain)
        temperature = float(options.get("temperature", TEMPERATURE))
    except ValueError as error:
        raise ModelNotFound(f"no model {name!r}: {error}") from error
    loaded = load_clip(source)
    return assemble(loaded, regions, templates, name=name, temperature=temperature)


def _options(name: str, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise ModelNotFound(
            f"no model {name!r}: unknown option {', '.join(unknown)}; valid are {', '.join(OPTIONS)}"
        )
    return options


def assemble(
    loaded: Loaded,
    regions: RegionConfig,
    templates: tuple[str, ...] = ("{}",),
    *,
    name: str,
    temperature: float = TEMPERATURE,
) -> XAttnModel:
    """An open_clip model with the untrained cross-attention on its regions.

    `loaded.clip` is taken apart and must not be used afterwards.
    """
    clip: Any = loaded.clip
    dim = loaded.model_config["embed_dim"]
    scale = clip.logit_scale.exp().item()
    bias = getattr(clip, "logit_bias", None)
    calibration = Calibration(
        logit_scale=scale,
        logit_bias=-scale * CLIP_MIDPOINT if bias is None else bias.item(),
        pooled_weight=POOLED_WEIGHT,
    )
    return XAttnModel(
        OpenClipVision(clip.visual, loaded.model_config, loaded.preprocess_config, regions),
        OpenClipText(clip, dim, loaded.tokenizer, templates),
        CrossAttention.identity(dim, temperature),
        calibration,
        name=name,
    ).float()


def describe(model: XAttnModel) -> dict[str, Any]:
    """What besides weights makes the towers, for a checkpoint's config.json.

    Raises CheckpointError if the towers are not open_clip's.
    """
    if not isinstance(model.vision, OpenClipVision) or not isinstance(model.text, OpenClipText):
        kinds = f"{type(model.vision).__name__} and {type(model.text).__name__}"
        raise CheckpointError(
            f"a model made of {kinds} cannot be saved: neither xattn's nor open_clip's towers"
        )
    return {
        "model": model.vision.model_config,
        "preprocess": model.vision.preprocess_config,
        "regions": asdict(model.vision.config),
        "templates": list(model.text.templates),
    }


def rebuild(
    section: Mapping[str, Any],
    attention: CrossAttention,
    calibration: Calibration,
    directory: Path,
    name: str,
    files: Mapping[str, str],
) -> XAttnModel:
    """The model of a checkpoint directory, with random weights.

    section: what `describe` gave; files: names of the parts of the directory (xattn.model.checkpoint)

    Raises CheckpointError if the section or the tokenizer beside it cannot be used.
    """
    try:
        model_config, preprocess = section["model"], section["preprocess"]
        regions, templates = RegionConfig(**section["regions"]), tuple(section["templates"])
        tokenizer = read_tokenizer_of(model_config, directory / files["tokenizer_dir"])
        clip: Any = build_clip(model_config, directory / files["text_config_dir"])
        vision = OpenClipVision(clip.visual, model_config, preprocess, regions)
        text = OpenClipText(clip, model_config["embed_dim"], tokenizer, templates)
    except (KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{directory}/config.json does not describe an open_clip model: {error!r}"
        ) from error
    return XAttnModel(vision, text, attention, calibration, name=name)


def save_extras(model: XAttnModel, directory: Path, files: Mapping[str, str]) -> None:
    """Writes the tokenizer, and the text tower's config, where open_clip does not carry them itself."""
    assert isinstance(model.text, OpenClipText)
    tokenizer, text_config = directory / files["tokenizer_dir"], directory / files["text_config_dir"]
    save_text_parts(model.text.clip, model.text.tokenizer, tokenizer, text_config)
