"""A model of the default one's kind, whose nets are tiny and have random weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import timm
import torch
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from training import run
from training.recipes import default
from xattn.encoders.hybrid.fusion import FusionConfig
from xattn.encoders.hybrid.vision import HybridConfig
from xattn.model import XAttnModel
from xattn.training.pictures import Dataset

CONV_WIDTH, TEXTURE_WIDTH, VIT_WIDTH = 24, 16, 24
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


@contextmanager
def tiny_nets() -> Iterator[None]:
    """Recipes begin with these nets meanwhile."""
    widths = {"conv_width": CONV_WIDTH, "texture_width": TEXTURE_WIDTH, "vit_width": VIT_WIDTH}
    nets = {"conv": tiny_conv.__name__, "vit": tiny_dino.__name__}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "FusionConfig", partial(FusionConfig, **widths))
        patch.setattr(run, "HybridConfig", partial(HybridConfig, **nets))
        yield


def tiny_default(dataset: Dataset, seed: int = 0) -> XAttnModel:
    """What the default recipe's smoke run begins with, by smaller nets."""
    torch.manual_seed(seed)
    with tiny_nets():
        return run.untrained(default(smoke=True), dataset)
