"""What the frozen part of the vision towers says of each photo, kept on disk.

A photo passes the frozen blocks once, whole, at the shape nearest to its aspect ratio. Training reads
half-precision rows from memory-mapped files, one set a shape: about 1 MB a photo, 0.15 s of two cores each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from training.photos import Photo
from xattn import images
from xattn.encoders.hybrid.fusion import patch_colors
from xattn.encoders.hybrid.vision import (
    CONV_STAGE,
    IMAGENET_MEAN,
    IMAGENET_STD,
    SHAPES,
    VIT_BLOCK,
    HybridEncoder,
    Shape,
    nearest_shape,
)
from xattn.files import write_text

AT_ONCE = 8
COMMIT_PHOTOS = 64


class FrozenFeatures(NamedTuple):
    """Of B photos of one shape; R regions, P cells (xattn.encoders.hybrid.fusion.TowerFeatures).

    raw: tokens after block VIT_BLOCK of the ViT, class token first, before any norm
    """

    cells: Float[Tensor, "B P C"]
    textures: Float[Tensor, "B R X"]
    raw: Float[Tensor, "B T V"]
    prior: Float[Tensor, "B S text"]
    colors: Float[Tensor, "B R 6"]


@torch.inference_mode()
def frozen_features(
    vision: HybridEncoder, shape: Shape, frames: Sequence[tuple[Tensor, ...]]
) -> FrozenFeatures:
    """Of photos of one shape, as `HybridEncoder.preprocess` has resized them."""
    vit = torch.stack([frame[0] for frame in frames])
    conv = torch.stack([frame[1] for frame in frames])
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(3, 1, 1)
    unit = vit.float() / 255
    ((patches, class_token),) = vision.vit.forward_intermediates(
        (unit - mean) / std,
        [VIT_BLOCK],
        return_prefix_tokens=True,
        norm=False,
        output_fmt="NLC",
        intermediates_only=True,
    )
    scaled = (conv.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
    final, (middle,) = vision.conv.forward_intermediates(scaled, [CONV_STAGE])
    cells = final.flatten(2).transpose(1, 2)
    textures = F.interpolate(middle.float(), shape.grid, mode="bilinear", antialias=True)
    return FrozenFeatures(
        cells=cells,
        textures=textures.flatten(2).transpose(1, 2),
        raw=torch.cat([class_token, patches], 1),
        prior=vision.fusion.class_prior(cells, vision.conv.get_submodule("classifier")),
        colors=patch_colors(unit, shape.grid),
    )


class FeatureStore:
    """Frozen features of photos, in a directory of their own; filled by `fill`, resumable after a kill."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._index = directory / "index.json"
        self.place: dict[str, tuple[int, int]] = {}
        """Key of a photo → (number of its shape, row in that shape's files)."""
        if self._index.exists():
            self.place = {key: (s, r) for key, (s, r) in json.loads(self._index.read_text()).items()}
        self._mapped: dict[tuple[int, str], np.ndarray] = {}

    def fill(
        self, vision: HybridEncoder, photos: Sequence[Photo], progress: Callable[[int, int], None]
    ) -> None:
        """Adds photos that are missing. progress: called with (photos done, photos in all).

        Raises:
            ImageError: a photo cannot be read.
        """
        missing = [photo for photo in photos if photo.key not in self.place]
        for start in range(0, len(missing), COMMIT_PHOTOS):
            progress(start, len(missing))
            self._add(vision, missing[start : start + COMMIT_PHOTOS])
        progress(len(missing), len(missing))

    def _add(self, vision: HybridEncoder, photos: Sequence[Photo]) -> None:
        by_shape: dict[int, list[tuple[str, tuple[Tensor, ...]]]] = {}
        for photo in photos:
            picture = images.load(photo.path, at_least=vision.longest_side).picture
            number = SHAPES.index(nearest_shape((picture.height, picture.width)))
            by_shape.setdefault(number, []).append((photo.key, vision.preprocess(picture)))
        for number, members in by_shape.items():
            count = sum(shape == number for shape, _ in self.place.values())
            for start in range(0, len(members), AT_ONCE):
                part = members[start : start + AT_ONCE]
                found = frozen_features(vision, SHAPES[number], [frames for _, frames in part])
                for name, values in zip(FrozenFeatures._fields, found, strict=True):
                    self._write(number, name, count, values.half().numpy())
                for key, _ in part:
                    self.place[key] = (number, count)
                    count += 1
        write_text(self._index, json.dumps(self.place))
        self._mapped.clear()

    def _write(self, number: int, name: str, row: int, values: np.ndarray) -> None:
        path = self._path(number, name)
        path.touch()
        with path.open(
            "r+b"
        ) as file:  # rows that no index names, of a run that was killed, are overwritten
            file.seek(row * values[0].nbytes)
            file.write(values.tobytes())

    def _path(self, number: int, name: str) -> Path:
        return self.directory / f"{number}-{name}.f16"

    def shape_of(self, photo: Photo) -> int:
        return self.place[photo.key][0]

    def read(self, photos: Sequence[Photo], widths: dict[str, int]) -> FrozenFeatures:
        """Float32 features of photos of one shape. widths: of each field's rows."""
        number = self.shape_of(photos[0])
        rows = [self.place[photo.key][1] for photo in photos]
        shape = SHAPES[number]
        regions, cells = shape.grid[0] * shape.grid[1], shape.conv_grid[0] * shape.conv_grid[1]
        places = {
            "cells": cells,
            "textures": regions,
            "raw": regions + 1,
            "prior": cells + 1,
            "colors": regions,
        }
        values = []
        for name in FrozenFeatures._fields:
            if (number, name) not in self._mapped:
                mapped = np.memmap(self._path(number, name), np.float16, "r")
                self._mapped[number, name] = mapped.reshape(-1, places[name], widths[name])
            values.append(torch.from_numpy(self._mapped[number, name][rows].astype(np.float32)))
        return FrozenFeatures(*values)


def widths_of(vision: HybridEncoder) -> dict[str, int]:
    """Widths of the fields of `FrozenFeatures`."""
    config = vision.config.fusion
    return {
        "cells": config.conv_width,
        "textures": config.texture_width,
        "raw": config.vit_width,
        "prior": config.text_width,
        "colors": config.color_width,
    }
