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
HEADER = 40
FOOTER = 24
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


def draw(rows: Sequence[Row]) -> Image.Image:
    """All rows, in columns of about the same height, read downwards. Raises ImageError for a photo that
    cannot be read."""
    cells = [_cell(row) for row in rows]
    height = max(cell.height for cell in cells)
    per_column = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGB", (WIDTH, MARGIN + per_column * (height + MARGIN // 2)), BACKGROUND)
    for i, cell in enumerate(cells):
        column, row = i % COLUMNS, i // COLUMNS
        sheet.paste(cell, (MARGIN + column * (CELL + MARGIN), MARGIN + row * (height + MARGIN // 2)))
    return sheet


def _cell(row: Row) -> Image.Image:
    """The query above its hits."""
    width = (CELL - GAP * (len(row.hits) - 1)) // len(row.hits)
    height = width * 3 // 4
    cell = Image.new("RGB", (CELL, HEADER + height + FOOTER), BACKGROUND)
    pen = ImageDraw.Draw(cell)
    _write_query(pen, row)
    for i, hit in enumerate(row.hits):
        photo = _photo(hit, width, height)
        # Never cropped: what was found may lie at the edge.
        left = i * (width + GAP) + (width - photo.width) // 2
        top = HEADER + (height - photo.height) // 2
        cell.paste(photo, (left, top))
        if row.is_right(hit):
            frame = (left - 1, top - 1, left + photo.width, top + photo.height)
            pen.rectangle(frame, outline=RIGHT, width=3)
        _write_footer(pen, hit, row.is_right(hit), left, top + photo.height + 3)
    return cell


def _photo(hit: Hit, width: int, height: int) -> Image.Image:
    """With the maps of its phrases, as large as fits."""
    picture = images.load(hit.path, at_least=max(width, height)).picture
    scale = min(width / picture.width, height / picture.height)
    size = (round(picture.width * scale), round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    return overlay.render(picture, hit.groundings, size=hit.size, boxes=False)


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
        pen.line([(left, top + 9), (left + 4, top + 13), (left + 12, top + 4)], fill=RIGHT, width=3)
    text = f"{hit.probability:.0%}"
    pen.text((left + (18 if right else 0), top), text, fill=RIGHT if right else FAINT, font=_font(14))


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
