"""The default vision tower: a convolutional net that names things and a ViT that outlines them.

EfficientNet-Lite2 (Tan & Le 2019; ImageNet classes) sees a picture coarsely and knows what is in it;
DINOv2 ViT-S/14 (Oquab et al. 2023) is trained without labels and separates regions sharply. `Fusion`
joins them on the ViT's grid. Of each, a middle layer is kept too, which costs no time: what it says of
material and parts the last one has let go. Both see the whole picture, resized to the nearest of three
shapes of about the same number of patches, so nothing is cropped away and little is distorted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import timm
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from xattn.encoders.base import Frames, VisionEncoder
from xattn.encoders.hybrid.fold_batch_norm import fold_batch_norms
from xattn.encoders.hybrid.fusion import Fusion, FusionConfig, TowerFeatures, patch_colors, upsampling
from xattn.encoders.hybrid.prepack_linear import prepack_linears
from xattn.errors import CheckpointError
from xattn.types import RegionGrid, Size

PATCH = 14
"""Pixels of a side of the ViT's patches, which are the regions."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One of the shapes pictures are resized to.

    grid: (H, W) of regions; vit, conv: (height, width) in pixels that each net sees
    """

    grid: Size
    vit: Size
    conv: Size

    @property
    def conv_grid(self) -> Size:
        return self.conv[0] // CONV_STRIDE, self.conv[1] // CONV_STRIDE


CONV_STRIDE = 32
CONV_STAGE = 3
"""Of the convolutional net's five, the one whose map is kept as textures: stride 16."""
VIT_BLOCK = 8
"""Of the ViT's twelve, counted from 0, the one whose tokens are kept beside the last."""
# About as many as fit 1.5 times the time of OpenCLIP's ViT-B/32 per photo. What is smaller than a
# patch is found by luck alone, and two fifths of what people box is smaller than six of these.
SHAPES = (
    Shape(grid=(15, 20), vit=(210, 280), conv=(320, 448)),
    Shape(grid=(17, 17), vit=(238, 238), conv=(384, 384)),
    Shape(grid=(20, 15), vit=(280, 210), conv=(448, 320)),
)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def nearest_shape(size: Size) -> Shape:
    """The shape whose aspect ratio is nearest, by ratio of ratios, to that of a picture (height, width)."""
    aspect = np.log(size[0] / size[1])
    return min(SHAPES, key=lambda shape: abs(aspect - np.log(shape.grid[0] / shape.grid[1])))


@dataclass(frozen=True, slots=True)
class HybridConfig:
    """Names of the two nets in timm, and how they are joined."""

    conv: str = "tf_efficientnet_lite2"
    vit: str = "vit_small_patch14_dinov2"
    fusion: FusionConfig = field(default_factory=FusionConfig)


class HybridEncoder(VisionEncoder):
    """EfficientNet-Lite and DINOv2, joined. Region r of H×W lies in row r // W, column r % W."""

    longest_side = max(side for shape in SHAPES for side in shape.conv)
    # timm's models, whose `forward_features` nn.Module does not declare.
    conv: Any
    vit: Any

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.config = config
        self.signature = f"hybrid {[(shape.vit, shape.conv) for shape in SHAPES]}"
        self.dim = config.fusion.dim
        for tower in (config.conv, config.vit):
            if not (isinstance(tower, str) and timm.is_model(tower)):
                raise CheckpointError(f"timm ships no tower {tower!r}, which the model's config names")
        self.conv = fold_batch_norms(timm.create_model(config.conv, pretrained=False).eval())
        self.conv.to(memory_format=torch.channels_last)  # halves its time on a CPU
        vit = timm.create_model(config.vit, pretrained=False, num_classes=0, dynamic_img_size=True)
        self.vit = prepack_linears(vit)
        self.fusion = Fusion(config.fusion)

    def preprocess(self, picture: Image.Image) -> Frames:
        shape = nearest_shape((picture.height, picture.width))
        return _resized(picture, shape.vit), _resized(picture, shape.conv)

    def forward(self, batch: Sequence[Frames]) -> RegionGrid:
        encoded: list[RegionGrid | None] = [None] * len(batch)
        for shape in SHAPES:
            members = [i for i, (vit, _) in enumerate(batch) if tuple(vit.shape[1:]) == shape.vit]
            if members:
                grids = self._encode(shape, [batch[i] for i in members])
                for place, i in enumerate(members):
                    encoded[i] = grids[place]
        return RegionGrid.stack([grid for grid in encoded if grid is not None])

    def _encode(self, shape: Shape, batch: Sequence[Frames]) -> RegionGrid:
        device = self.fusion.class_names.device
        vit = torch.stack([frames[0] for frames in batch]).to(device)
        conv = torch.stack([frames[1] for frames in batch]).to(device)
        features = TowerFeatures(*self.features(vit, conv))
        resample = upsampling(shape.conv_grid, shape.grid).to(device).expand(len(batch), -1, -1)
        regions, pooled = self.fusion(features, resample)
        return RegionGrid(regions, pooled, (shape.grid,) * len(batch))

    def features(self, vit: UInt8[Tensor, "B 3 h w"], conv: UInt8[Tensor, "B 3 y x"]) -> TowerFeatures:
        """What the two nets say of frames of one shape."""
        mean = torch.tensor(IMAGENET_MEAN, device=vit.device).view(3, 1, 1)
        std = torch.tensor(IMAGENET_STD, device=vit.device).view(3, 1, 1)
        unit = vit.float() / 255
        grid = (vit.shape[2] // PATCH, vit.shape[3] // PATCH)
        last, ((early, early_class),) = self.vit.forward_intermediates(
            (unit - mean) / std, [VIT_BLOCK], return_prefix_tokens=True, norm=True, output_fmt="NLC"
        )
        frames = (conv.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        final, (middle,) = self.conv.forward_intermediates(frames, [CONV_STAGE])
        cells = final.flatten(2).transpose(1, 2)
        # In float32 under autocast, too: torch has no resampling of half precision on a CPU.
        textures = F.interpolate(middle.float(), grid, mode="bilinear", antialias=True)
        return TowerFeatures(
            cells=cells,
            textures=textures.flatten(2).transpose(1, 2),
            tokens=last,
            early=torch.cat([early_class, early], 1),
            prior=self.fusion.class_prior(cells, self.conv.get_submodule("classifier")),
            colors=patch_colors(unit, grid),
        )


def _resized(picture: Image.Image, size: Size) -> UInt8[Tensor, "3 h w"]:
    resized = picture.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)
