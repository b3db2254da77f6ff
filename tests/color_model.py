"""A real XAttnModel that sees nothing but colours: fast, deterministic, and every map is predictable.

    model = color_model()
    picture = paint((5, 7), "blue", {(1, 4): "red"})     # 5 rows, 7 columns of cells; one of them red
    model.ground(picture, ["a red square"])[0].weights   # [5, 7], nearly all of it at [1, 4]

The vision tower divides a picture into about 36 regions whose rows and columns follow its aspect ratio
(5:7 → 5×7, 7:5 → 7×5, square → 6×6) and gives each region the direction of its nearest named colour.
The text tower maps a colour word to the same direction, several to their normalised sum, and a text
without colours to a direction of its own. The attention finds its colour with a large margin; a colour
that is not in the picture goes to null. Weights were set by hand, none is random.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from xattn.attention import CrossAttention
from xattn.encoders import Frames, TextEncoder, VisionEncoder
from xattn.model import Calibration, XAttnModel
from xattn.types import RegionGrid, Size

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 20, 20),
    "green": (20, 140, 20),
    "blue": (20, 40, 220),
    "yellow": (240, 230, 20),
    "orange": (250, 140, 10),
    "purple": (130, 20, 160),
    "pink": (250, 150, 190),
    "brown": (110, 65, 25),
    "cyan": (20, 220, 230),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "white": (255, 255, 255),
}
DIM = 32
NUM_HEADS = 2
NOTHING = len(COLORS)
"""The direction of a text that names no colour."""
CELL = 8
"""Pixels of a region's side after `preprocess`."""
LARGEST_GRID_SIDE = 12


def grid_of(size: Size) -> Size:
    """(rows, columns) of the region grid of a picture of `size` = (height, width)."""
    height, width = size
    rows = min(max(round(6 * (height / width) ** 0.5), 3), LARGEST_GRID_SIDE)
    return rows, min(max(round(36 / rows), 3), LARGEST_GRID_SIDE)


class ColorVision(VisionEncoder):
    """Each region → the direction of the named colour nearest to its mean."""

    dim = DIM
    longest_side = LARGEST_GRID_SIDE * CELL
    palette: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("palette", torch.tensor(list(COLORS.values()), dtype=torch.float32))

    def preprocess(self, picture: Image.Image) -> Frames:
        rows, columns = grid_of((picture.height, picture.width))
        resized = picture.resize((columns * CELL, rows * CELL), Image.Resampling.BOX)
        return (torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous(),)

    def forward(self, batch: Sequence[Frames]) -> RegionGrid:
        return RegionGrid.stack([self._encode(frame) for (frame,) in batch])

    def _encode(self, frame: Tensor) -> RegionGrid:
        assert frame.dtype == torch.uint8
        means = F.avg_pool2d(frame.float(), CELL)
        nearest = torch.cdist(means.flatten(1).T, self.palette).argmin(-1)
        regions = F.one_hot(nearest, DIM).float()
        pooled = F.normalize(regions.mean(0), dim=-1)
        return RegionGrid(regions[None], pooled[None], ((means.shape[1], means.shape[2]),))


class ColorText(TextEncoder):
    """Colour words → their directions."""

    dim = DIM

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        embeddings = torch.zeros(len(texts), DIM)
        names = list(COLORS)
        for embedding, text in zip(embeddings, texts, strict=True):
            words = re.findall(r"[a-z]+", text.lower().replace("grey", "gray"))
            for index in [names.index(word) for word in words if word in COLORS] or [NOTHING]:
                embedding[index] += 1
        return F.normalize(embeddings, dim=-1)


def color_attention(null_value: float = -1.0) -> CrossAttention:
    """Both heads compare colours; null lies between a match and a mismatch."""
    attention = CrossAttention(DIM, NUM_HEADS)
    head_dim = DIM // NUM_HEADS
    colors = torch.eye(head_dim, DIM).repeat(
        NUM_HEADS, 1
    )  # [K·d, D]: each head reads the colour dimensions
    sharpness = 4.0
    with torch.no_grad():
        attention.query.weight.copy_(colors * sharpness)
        attention.key.weight.copy_(colors)
        attention.value.weight.copy_(colors)
        attention.out.weight.copy_(colors.T)
        # After LayerNorm q·k is about 31 for the same colour and -1.5 for another; q·1 is about 2.9.
        attention.null_key.fill_(2.5)
        # Reading nothing speaks a little against every text.
        attention.null_value.fill_(null_value)
    return attention


def color_model(name: str = "colors", null_value: float = -1.0) -> XAttnModel:
    """The model; another `null_value` gives it other fingerprints, another `name` does not."""
    calibration = Calibration(logit_scale=10.0, logit_bias=-3.0, pooled_weight=0.5)
    vision = ColorVision()
    vision.signature = "" if null_value == -1.0 else f"colors {null_value}"
    return XAttnModel(vision, ColorText(), color_attention(null_value), calibration, name)


def paint(
    grid: Size, background: str, spots: Mapping[tuple[int, int], str] | None = None, cell: int = 20
) -> Image.Image:
    """A picture of rows × columns square cells, (row, column) → colour where it is not the background."""
    rows, columns = grid
    cells = np.empty((rows, columns, 3), np.uint8)
    cells[:] = COLORS[background]
    for (row, column), color in (spots or {}).items():
        cells[row, column] = COLORS[color]
    return Image.fromarray(cells.repeat(cell, 0).repeat(cell, 1))
