"""A model of the default one's kind, whose nets are tiny and have random weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn

from xattn.attention import CrossAttention
from xattn.encoders.hybrid.fusion import FusionConfig
from xattn.encoders.hybrid.text import SentenceConfig, SentenceEncoder
from xattn.encoders.hybrid.vision import HybridConfig, HybridEncoder
from xattn.model import Calibration, XAttnModel

DIM, CONV_WIDTH, TEXTURE_WIDTH, VIT_WIDTH = 32, 24, 16, 24
STAGES = [
    ["ds_r1_k3_s1_e1_c8"],
    ["ir_r1_k3_s2_e2_c8"],
    ["ir_r1_k3_s2_e2_c8"],
    [f"ir_r1_k3_s2_e2_c{TEXTURE_WIDTH}"],
    ["ir_r1_k3_s2_e2_c16"],
]


def tiny_conv(pretrained: bool = False, **options: Any) -> nn.Module:
    """As EfficientNet-Lite: five stages, of strides 2 to 32, and a convolution before the classifier."""
    del pretrained, options
    stages = decode_arch_def(STAGES)
    return EfficientNet(stages, num_features=CONV_WIDTH, stem_size=8, fix_stem=True, act_layer=nn.ReLU6)


def tiny_dino(pretrained: bool = False, **options: Any) -> nn.Module:
    """As DINOv2's ViT-S/14: twelve blocks, layer scale."""
    del pretrained
    size = {"img_size": 196, "patch_size": 14, "embed_dim": VIT_WIDTH, "depth": 12, "num_heads": 2}
    kept = {name: options[name] for name in ("num_classes", "dynamic_img_size")}
    return VisionTransformer(**size, mlp_ratio=1.0, init_values=1e-5, **kept)


for entry in (tiny_conv, tiny_dino):
    timm.models.register_model(entry)


def tiny_default(texts: Sequence[str], seed: int = 0) -> XAttnModel:
    """The default model's architecture with random towers. texts: what its vocabulary is made of."""
    torch.manual_seed(seed)
    words = sorted({word for text in texts for word in text.split()})
    tokenizer = Tokenizer(
        WordLevel({w: n for n, w in enumerate(["[PAD]", "[UNK]", *words])}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = Whitespace()
    sizes = {"width": 48, "num_layers": 2, "num_heads": 4, "feedforward": 96}
    config = SentenceConfig(dim=DIM, vocab_size=len(words) + 2, **sizes)
    text = SentenceEncoder(config, tokenizer).eval()
    text.measure_centers(texts)
    fusion = FusionConfig(
        dim=DIM, conv_width=CONV_WIDTH, texture_width=TEXTURE_WIDTH, vit_width=VIT_WIDTH, text_width=48
    )
    vision = HybridEncoder(HybridConfig(tiny_conv.__name__, tiny_dino.__name__, fusion))
    names = torch.randn(fusion.num_classes, fusion.text_width)
    vision.fusion.class_names.copy_(torch.nn.functional.normalize(names, dim=-1))
    attention = CrossAttention(DIM, num_heads=2)
    return XAttnModel(vision, text, attention, Calibration(), name="tiny")
