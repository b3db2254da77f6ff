"""What `xattn models` lists: every set of weights that open_clip knows by name."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import open_clip

from xattn.types import Size

Maps = Literal["advised", "coarse", "weaker"]
SIZES = Path(__file__).parent / "sizes.json"
"""Millions of parameters by architecture, counted on models without storage (`count_parameters`)."""
FINE_SIDE = 14
"""Cells along a side from which on a grid is not coarse."""
LARGE_WIDTH = 1024
"""Width of a transformer from which on the dense methods, which change one block of many, help less."""

SEE_CARD = "see its model card"
_LICENCES = (
    # (architecture, weights, licence): the first line whose two patterns match. Where no card or licence
    # of the publisher was seen, the card is pointed to; restrictions alone are carried over to successors
    # unseen (MetaCLIP 2, MobileCLIP2), since wrongly warning harms less.
    (r"nllb", r"", "CC-BY-NC-4.0: not for commercial use"),
    (r"", r"^(metaclip)", "CC-BY-NC-4.0: not for commercial use"),
    (r"", r"^(dfn|datacompdr)", "Apple's own terms (apple-amlr): research only"),
    (r"", r"^webli", "Apache-2.0"),
    (r"^ViT-[LH]-14-CLIPA$", r"", "Apache-2.0"),
    (r"CLIPA|^ViTamin-[SB]", r"", SEE_CARD),
    (r"^convnext_(base_w|large|xx)", r"", SEE_CARD),
    (r"", r"^(commonpool|datacomp_[sml]|laion400m_e3|laion2b_e16)", SEE_CARD),
    (r"^PE-", r"^meta", "Apache-2.0"),
    (r"", r"^(openai|laion|frozen_laion|mscoco|datacomp|merged2b|yfcc15m|cc12m)", "MIT"),
)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One line of the list.

    millions: of parameters, None if unknown; size, grid: (height, width) in pixels and (H, W) of regions
    at the size it was trained at; licence: of the weights as their publishers state it, a hint only;
    maps: "advised"; "coarse": fewer than 14 regions to a side; "weaker": a large tower or a ResNet
    """

    name: str
    millions: float | None
    size: Size
    grid: Size
    licence: str
    maps: Maps


def list_models(text: str = "") -> list[ModelInfo]:
    """All of them, or those whose name holds `text`, in open_clip's order."""
    millions = json.loads(SIZES.read_text(encoding="utf-8"))
    found = []
    for arch, tag in open_clip.list_pretrained():
        name = f"openclip:{arch}/{tag}"
        if text.lower() not in name.lower():
            continue
        vision: dict[str, Any] = open_clip.get_model_config(arch)["vision_cfg"]
        side = vision.get("image_size", 224)
        size = (side, side) if isinstance(side, int) else (side[0], side[1])
        cell = cell_of(vision)
        grid = (size[0] // cell, size[1] // cell)
        found.append(
            ModelInfo(name, millions.get(arch), size, grid, licence_of(arch, tag), maps_of(vision, grid))
        )
    return found


def cell_of(vision: dict[str, Any]) -> int:
    """Pixels along a side of one region."""
    timm = vision.get("timm_model_name")
    if timm is None:
        return 32 if isinstance(vision["layers"], list) else vision["patch_size"]
    patch = re.search(r"patch(\d+)", timm)
    if "swin" in timm or patch is None:
        return (
            16 if timm.startswith(("vitamin", "vit_base_mci")) else 64 if re.search("mci[34]", timm) else 32
        )
    return int(patch[1])


def maps_of(vision: dict[str, Any], grid: Size) -> Maps:
    """How well maps without training can be expected to turn out."""
    timm = vision.get("timm_model_name") or ""
    named_large = re.search(r"large|so400m|huge|giant|gigantic|enormous|gopt", timm)
    large = named_large or vision.get("width", 0) >= LARGE_WIDTH
    if min(grid) < FINE_SIDE:
        return "coarse"
    return "weaker" if large or isinstance(vision.get("layers"), list) else "advised"


def licence_of(arch: str, tag: str) -> str:
    """The licence of weights as their publisher states it, as far as known."""
    for of_arch, of_tag, licence in _LICENCES:
        if re.search(of_arch, arch) and re.search(of_tag, tag):
            return licence
    return SEE_CARD


def count_parameters(arch: str) -> float:
    """Millions of parameters of an architecture, built without storage."""
    import torch

    from xattn.encoders.openclip.names import build_clip

    with torch.device("meta"):
        clip = build_clip(open_clip.get_model_config(arch))
    return round(sum(parameter.numel() for parameter in clip.parameters()) / 1e6, 1)
