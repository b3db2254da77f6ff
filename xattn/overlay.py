"""Maps as pictures: one colour a phrase, laid over the photo like coloured light, with boxes and labels.

How strongly a pixel is tinted:

    alpha    = opacity · strength · map / max(map)
    strength = min(1, (1 - null_weight) / PRESENT), at most FAINT for what was not found

The map is enlarged bilinearly and divided by its own maximum, so each phrase shows where it was found
relative to itself. Strength says whether it was found at all: it is full while the regions hold at least
PRESENT of the attention, and falls to nothing as the attention moves to null. Boxes and labels fade with
it, and what was not found has none. Where tints overlap they mix in proportion to their alphas; the order
of the phrases does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import ceil

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from xattn.geometry import resize_map, scale_box
from xattn.types import Box, Grounding, Size

Color = tuple[int, int, int]
"""(red, green, blue), 0–255"""

PALETTE: tuple[Color, ...] = (
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
    (0, 158, 115),
    (204, 121, 167),
    (0, 114, 178),
    (230, 159, 0),
)
"""Seven colours that people with any kind of colour blindness can tell apart (Okabe and Ito 2008), ordered
so that neighbours differ most. After the seventh phrase they start over."""

PRESENT = 0.5
"""Share of attention on regions, as opposed to null, from which a phrase is shown at full strength."""

FAINT = 0.3
"""Strength at most of what was not found."""

_MAX_LABEL = 80
_LABEL_PADDING = 3


def color_of(index: int, colors: Sequence[Color] = PALETTE) -> Color:
    """The colour of the index-th phrase, for legends."""
    return colors[index % len(colors)]


def strength(grounding: Grounding) -> float:
    """How strongly a phrase is drawn, in [0, 1]; see the module docstring."""
    return min(_attended(grounding.null_weight), 1.0 if grounding.found else FAINT)


def _attended(null_weight: float) -> float:
    return min(1.0, max(0.0, (1.0 - null_weight) / PRESENT))


def render(
    picture: Image.Image,
    groundings: Sequence[Grounding],
    *,
    size: Size | None = None,
    opacity: float = 0.55,
    boxes: bool = True,
    colors: Sequence[Color] = PALETTE,
) -> Image.Image:
    """A new RGB picture of the same size as `picture`, with all groundings drawn on it.

    picture: upright, at the size it will be shown at; not changed. size: of the upright original, which
    the boxes refer to, where `picture` is a smaller rendition of it. opacity: of the strongest tint, 0–1.
    boxes: also draw the boxes of each grounding that was found, its phrase beside the strongest.
    """
    maps = [(g.weights, strength(g)) for g in groundings]
    shown = [color_of(i, colors) for i in range(len(groundings))]
    rendered = _tint(picture, maps, shown, opacity)
    if boxes:
        _draw_boxes(rendered, groundings, size or (picture.height, picture.width), shown)
    return rendered


def heat(
    picture: Image.Image,
    weights: Float[np.ndarray, "H W"],
    *,
    null_weight: float = 0.0,
    opacity: float = 0.55,
    color: Color = PALETTE[0],
) -> Image.Image:
    """A new RGB picture with one map on it and nothing else. Negative values count as zero."""
    return _tint(picture, [(weights, _attended(null_weight))], [color], opacity)


# --- tints ----------------------------------------------------------------------------------------------


def _tint(
    picture: Image.Image,
    maps: Sequence[tuple[Float[np.ndarray, "H W"], float]],
    colors: Sequence[Color],
    opacity: float,
) -> Image.Image:
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be between 0 and 1, got {opacity}")
    if not maps:
        return picture.convert("RGB")
    size = (picture.height, picture.width)
    alphas = np.stack([_alpha(weights, opacity * factor, size) for weights, factor in maps])
    total = alphas.sum(0)
    kept = np.prod(1 - alphas, axis=0)  # of the photo
    shares = alphas * np.divide(1 - kept, total, out=np.zeros_like(total), where=total > 0)
    light = np.tensordot(np.array(colors, np.float32).T, shares, 1) + np.float32(0.5)  # [3, h, w]
    # Band by band: arithmetic on [h, w] is several times faster than on [h, w, 3] with [h, w, 1].
    bands = []
    for band, tint in zip(picture.convert("RGB").split(), light, strict=True):
        bands.append(Image.fromarray((np.asarray(band) * kept + tint).astype(np.uint8)))
    return Image.merge("RGB", bands)


def _alpha(weights: Float[np.ndarray, "H W"], peak_alpha: float, size: Size) -> Float[np.ndarray, "h w"]:
    weights = np.maximum(weights, 0, dtype=np.float32)
    highest = weights.max()
    if not 0 < highest < np.inf:  # written so that NaN draws nothing
        return np.zeros(size, np.float32)
    return resize_map(weights / highest * np.float32(peak_alpha), size)


# --- boxes ----------------------------------------------------------------------------------------------


def _draw_boxes(
    picture: Image.Image, groundings: Sequence[Grounding], size: Size, colors: Sequence[Color]
) -> None:
    shown = (picture.height, picture.width)
    draw = ImageDraw.Draw(picture, "RGBA")  # this mode blends what it draws on RGB
    line = max(1, round(min(shown) / 200))
    found = [
        (grounding, color, round(255 * strength(grounding)))
        for grounding, color in zip(groundings, colors, strict=True)
        if grounding.boxes and grounding.found
    ]
    for grounding, color, opacity in found:
        for scored in grounding.boxes:
            x1, y1, x2, y2 = _pixels(scale_box(scored.box, size, shown), shown)
            # A dark line around the coloured one keeps it visible on a ground of its own colour.
            draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0, opacity // 2))
            draw.rectangle((x1, y1, x2, y2), outline=(*color, opacity), width=line)
    # Labels after all boxes, so that no line crosses them.
    taken: list[Box] = []
    for grounding, color, opacity in found:
        box = scale_box(grounding.boxes[0].box, size, shown)
        _draw_label(picture, grounding.phrase.text, box, color, opacity, taken)


def _pixels(box: Box, size: Size) -> tuple[int, int, int, int]:
    """First and last column and row of a box, inside the picture, at least one pixel each way."""
    x1 = min(max(round(box.x1), 0), size[1] - 1)
    y1 = min(max(round(box.y1), 0), size[0] - 1)
    return (
        x1,
        y1,
        min(max(round(box.x2) - 1, x1), size[1] - 1),
        min(max(round(box.y2) - 1, y1), size[0] - 1),
    )


def _draw_label(
    picture: Image.Image, text: str, box: Box, color: Color, opacity: int, taken: list[Box]
) -> None:
    size = (picture.height, picture.width)
    font = _font(min(28, max(11, round(min(size) / 22))))
    text, length = _fitted(text, font, size[1] - 2 * _LABEL_PADDING)
    width, height = length + 2 * _LABEL_PADDING, sum(font.getmetrics()) + 2
    if not text or height > size[0]:
        return
    place = _free_place(box, width, height, size, taken)
    taken.append(place)
    red, green, blue = color
    ink = (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else (255, 255, 255)
    label = Image.new("RGB", (width, height), color)
    ImageDraw.Draw(label).text((_LABEL_PADDING, 1), text, fill=ink, font=font)
    picture.paste(label, (int(place.x1), int(place.y1)), Image.new("L", label.size, opacity))


def _free_place(box: Box, width: int, height: int, size: Size, taken: Sequence[Box]) -> Box:
    """Above the box, else inside it, else below, else further down: the first that is in the picture and
    free; else above or inside."""
    x = min(max(0, round(box.x1)), size[1] - width)
    top, bottom = round(box.y1), round(box.y2)
    further = (top + step * height for step in range(1, 6))
    ys = [y for y in (top - height, top, bottom, bottom - height, *further) if 0 <= y <= size[0] - height]
    places = [Box(x, y, x + width, y + height) for y in ys or [0]]
    return next((p for p in places if not any(_overlap(p, other) for other in taken)), places[0])


def _overlap(a: Box, b: Box) -> bool:
    return a.x1 < b.x2 and b.x1 < a.x2 and a.y1 < b.y2 and b.y1 < a.y2


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> tuple[str, int]:
    """One printable line, cut so that it fits, and its length; empty if not even a letter does."""
    text = "".join(c for c in " ".join(text.split()) if c.isprintable())
    shown = text if len(text) <= _MAX_LABEL else text[:_MAX_LABEL].rstrip() + "…"
    while shown and (length := ceil(font.getlength(shown))) > width:
        shown = shown.rstrip("…")[:-1].rstrip()
        shown += "…" if shown else ""
    return (shown, length) if shown else ("", 0)


@lru_cache(maxsize=32)
def _font(height: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(height)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow is built without FreeType"
    return font
