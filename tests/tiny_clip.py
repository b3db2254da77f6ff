"""open_clip models of every family, tiny and with random weights."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from open_clip.transform import PreprocessCfg
from PIL import Image
from timm.models.eva import Eva
from timm.models.fastvit import FastVit
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import HybridEmbed
from timm.models.vitamin import GeGluMlp, MbConvStages, VitCfg, VitConvCfg
from torch import nn

from xattn.encoders.openclip.names import Loaded, build_clip

DIM = 24
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VIT = {"layers": 3, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 40}


def known(options: dict[str, Any]) -> dict[str, Any]:
    """Options without those that only timm's factory understands."""
    return {
        name: options[name]
        for name in ("num_classes", "global_pool", "dynamic_img_size")
        if name in options
    }


def tiny_siglip(pretrained: bool = False, **options: Any) -> nn.Module:
    """Without class token, pooled by attention."""
    del pretrained
    size = {"img_size": 40, "patch_size": 8, "embed_dim": DIM, "depth": 3, "num_heads": 3}
    return VisionTransformer(**size, class_token=False, **known(options))


def tiny_token(pretrained: bool = False, **options: Any) -> nn.Module:
    """With class token and registers, pooled by class token, as MobileCLIP-B is."""
    del pretrained
    size = {"img_size": 40, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}
    return VisionTransformer(**size, no_embed_class=True, init_values=0.5, **known(options))


def tiny_eva(pretrained: bool = False, **options: Any) -> nn.Module:
    """As EVA02-CLIP: separate q, k, v, rotary positions, inner norm."""
    del pretrained
    size = {"img_size": 40, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
    kind = {"qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True}
    return Eva(**size, **kind, use_rot_pos_emb=True, ref_feat_shape=(4, 4), **known(options))


def tiny_eva_post(pretrained: bool = False, **options: Any) -> nn.Module:
    """As EVA02-E: fused q, k, v with biases of q and v only, norm after each branch."""
    del pretrained
    size = {"img_size": 40, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}
    return Eva(**size, use_post_norm=True, **known(options))


def tiny_pe(pretrained: bool = False, **options: Any) -> nn.Module:
    """As PE-Core: rotary attention with x before y, pooled by attention over class token and patches."""
    del pretrained
    size = {"img_size": 40, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
    rope = {"use_rot_pos_emb": True, "rope_grid_offset": 1.0, "rope_grid_indexing": "xy"}
    return Eva(
        **size, **rope, attn_type="rope", attn_pool_num_heads=4, ref_feat_shape=(5, 5), **known(options)
    )


def tiny_vitamin(pretrained: bool = False, **options: Any) -> nn.Module:
    """As ViTamin: convolutions of stride 16 before the blocks, gated MLPs, pooled by average."""
    del pretrained
    stages = VitCfg((8, 16, 32), (1, 1, 1), 8, VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6), "1d")
    embed = partial(HybridEmbed, backbone=MbConvStages(stages), proj=False)
    size = {"img_size": 80, "patch_size": 1, "embed_dim": 32, "depth": 3, "num_heads": 4}
    kind = {"class_token": False, "mlp_layer": GeGluMlp, "global_pool": "avg"}
    return with_config(VisionTransformer(**size, embed_layer=embed, **{**kind, **known(options)}))


def tiny_fastvit(pretrained: bool = False, **options: Any) -> nn.Module:
    """As MobileCLIP-S: convolutions, attention in the last stage, a wider last map."""
    del pretrained
    mixers = ("repmixer", "repmixer", "repmixer", "attention")
    size = {"layers": (1, 1, 1, 1), "embed_dims": (8, 8, 16, 32), "mlp_ratios": (2, 2, 2, 2)}
    return FastVit(**size, token_mixers=mixers, se_downsamples=(False, False, True, True), **known(options))


def tiny_swin(pretrained: bool = False, **options: Any) -> nn.Module:
    """Windows that are shifted, for pictures of one size."""
    del pretrained
    size = {"img_size": 64, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4}
    return with_config(SwinTransformer(**size, **known(options)))


def with_config(net: Any) -> nn.Module:
    """With what open_clip looks up where it projects by itself."""
    net.default_cfg = {}
    return net


for entry in (
    tiny_siglip,
    tiny_token,
    tiny_eva,
    tiny_eva_post,
    tiny_pe,
    tiny_vitamin,
    tiny_fastvit,
    tiny_swin,
):
    timm.models.register_model(entry)

FAMILIES: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "vit-average": {**VIT, "pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
    "vit-custom": {
        **VIT,
        "qk_norm": True,
        "scale_heads": True,
        "scale_attn_inner": True,
        "scale_attn": True,
    },
    "vit-scaled": {**VIT, "ls_init_value": 0.3},
    "coca": {**VIT, "attentional_pool": True, "attn_pooler_queries": 7, "attn_pooler_heads": 4},
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 96},
    "siglip": {"timm_model_name": "tiny_siglip", "timm_pool": "map", "timm_proj": "none", "image_size": 40},
    "token": {"timm_model_name": "tiny_token", "timm_pool": "token", "timm_proj": None, "image_size": 40},
    "eva": {"timm_model_name": "tiny_eva", "timm_pool": "token", "timm_proj": None, "image_size": 40},
    "eva-post": {
        "timm_model_name": "tiny_eva_post",
        "timm_pool": "token",
        "timm_proj": None,
        "image_size": 40,
    },
    "eva-average": {"timm_model_name": "tiny_eva", "timm_pool": "avg", "timm_proj": None, "image_size": 40},
    "pe": {"timm_model_name": "tiny_pe", "timm_pool": "map", "timm_proj": None, "image_size": 40},
    "convnext": {
        "timm_model_name": "convnext_atto",
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 96,
    },
    "vitamin": {
        "timm_model_name": "tiny_vitamin",
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 80,
    },
    "fastvit": {"timm_model_name": "tiny_fastvit", "timm_pool": "avg", "timm_proj": None, "image_size": 96},
}
"""vision_cfg by family."""
FIXED: dict[str, dict[str, Any]] = {
    "swin": {"timm_model_name": "tiny_swin", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
}
"""Of families that see pictures of one size only."""
TRANSFORMERS = [name for name in FAMILIES if name not in ("resnet", "convnext", "fastvit")]


def tiny_config(family: str) -> dict[str, Any]:
    """open_clip's `model_cfg` for a family."""
    vision = {**FAMILIES, **FIXED}[family]
    custom = "timm_model_name" in vision
    return {"embed_dim": DIM, "vision_cfg": vision, "text_cfg": TEXT, "custom_text": custom}


def tiny_clip(family: str, resize_mode: str = "shortest") -> Loaded:
    """A model of a family. Norms and biases are random too: as initialised they would hide mistakes."""
    torch.manual_seed(sum(map(ord, family)))
    config = tiny_config(family)
    clip: Any = build_clip(config).eval()
    with torch.no_grad():
        for parameter in clip.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    size = config["vision_cfg"]["image_size"]
    preprocess = asdict(PreprocessCfg(size=size, resize_mode=resize_mode))
    return Loaded(
        clip, config, preprocess, open_clip.SimpleTokenizer(context_length=TEXT["context_length"])
    )


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
