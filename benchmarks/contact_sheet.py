"""Search results as one picture: each query with its best hits, their maps drawn as the page draws them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from xattn import images, overlay
from xattn.types import Hit

WIDTH = 1400
MARGIN = 24
GAP = 8
COLUMNS = 2
LEGEND = 44
HEADER = 40
FOOTER = 42
MAX_HEIGHT = 196
BACKGROUND = (255, 255, 255)
INK = (28, 30, 36)
FAINT = (122, 126, 136)
RIGHT = (22, 135, 62)

CELL = (WIDTH - (COLUMNS + 1) * MARGIN) // COLUMNS
"""Pixels that a query's hits share, side by side."""


@dataclass(frozen=True, slots=True)
class Row:
    """A query, its best hits and the names of the photos that are right."""

    query: str
    hits: Sequence[Hit]
    relevant: Collection[str]

    def is_right(self, hit: Hit) -> bool:
        return hit.path.name in self.relevant


def draw(rows: Sequence[Row], num_pictures: int) -> Image.Image:
    """All rows, two side by side, below a legend; each has a hit at least. num_pictures: searched.

    Raises ImageError for a photo that cannot be read.
    """
    cells = [_cell(row) for row in rows]
    pairs = [cells[i : i + COLUMNS] for i in range(0, len(cells), COLUMNS)]
    heights = [max(cell.height for cell in pair) for pair in pairs]
    sheet = Image.new("RGB", (WIDTH, LEGEND + sum(heights) + MARGIN // 2), BACKGROUND)
    legend = (
        f"The best of {num_pictures} photos for each query, and how probable the match is. "
        "Tints show where the phrase underlined in that colour was found. Green frame: right."
    )
    ImageDraw.Draw(sheet).text((MARGIN, MARGIN // 2), legend, fill=INK, font=_font(17))
    top = LEGEND
    for pair, height in zip(pairs, heights, strict=True):
        for column, cell in enumerate(pair):
            sheet.paste(cell, (MARGIN + column * (CELL + MARGIN), top))
        top += height
    return sheet


def _cell(row: Row) -> Image.Image:
    """The query above its hits, which are uncropped and equally high."""
    decoded = [images.load(hit.path, at_least=CELL // 2).picture for hit in row.hits]
    room = CELL - GAP * (len(decoded) - 1)
    height = min(MAX_HEIGHT, int(room / sum(picture.width / picture.height for picture in decoded)))
    cell = Image.new("RGB", (CELL, HEADER + height + FOOTER), BACKGROUND)
    pen = ImageDraw.Draw(cell)
    _write_query(pen, row)
    left = 0
    for hit, picture in zip(row.hits, decoded, strict=True):
        width = int(picture.width * height / picture.height)
        photo = picture.resize((width, height), Image.Resampling.LANCZOS)
        cell.paste(overlay.render(photo, hit.groundings, size=hit.size, boxes=False), (left, HEADER))
        if row.is_right(hit):
            frame = (left, HEADER, left + width - 1, HEADER + height - 1)
            pen.rectangle(frame, outline=RIGHT, width=3)
        _write_footer(pen, hit, row.is_right(hit), left, HEADER + height + 4)
        left += width + GAP
    return cell


def _write_query(pen: ImageDraw.ImageDraw, row: Row) -> None:
    """Its phrases underlined in the colours of their maps."""
    font = _font(22)
    pen.text((0, 6), row.query, fill=INK, font=font)
    for i, grounding in enumerate(row.hits[0].groundings):
        phrase = grounding.phrase
        left = font.getlength(row.query[: phrase.start])
        right = font.getlength(row.query[: phrase.end])
        pen.rectangle((left, 32, right, 35), fill=overlay.color_of(i))


def _write_footer(pen: ImageDraw.ImageDraw, hit: Hit, right: bool, left: int, top: int) -> None:
    """How probable the match is, and a tick if it is right."""
    if right:
        pen.line([(left, top + 10), (left + 4, top + 14), (left + 12, top + 5)], fill=RIGHT, width=3)
    text = f"{hit.probability:.0%}"
    pen.text((left + (18 if right else 0), top), text, fill=RIGHT if right else FAINT, font=_font(16))


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow is built without FreeType"
    return font


def save(sheet: Image.Image, path: Path, max_bytes: int = 600_000) -> None:
    """As the best JPEG of at most `max_bytes`, if there is one of acceptable quality."""
    for quality in (90, 86, 82, 78, 74, 70):
        sheet.save(path, "JPEG", quality=quality, optimize=True, progressive=True)
        if path.stat().st_size <= max_bytes:
            return
