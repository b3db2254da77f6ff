"""What the 20 sample queries find among the sample photos, as a picture and a table for the README.

The photos are left out of training and no figure is reported or tuned on them: this is the demonstration,
drawn as the app draws it. Which photos are right was judged by eye, once (data/samples/queries.json).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

import xattn
from benchmarks.record import RESULTS, record
from xattn import images, overlay
from xattn.types import Hit
from xattn.ui.samples import Samples

SHOWN = 3
ROWS, COLUMNS = 10, 2
TILE = (190, 143)
"""(width, height) in pixels of one photo on the sheet."""
GAP, TITLE, FRAME = 6, 24, 3
RIGHT, INK, PAPER = (0, 140, 80), (30, 30, 36), (255, 255, 255)


class Answer(NamedTuple):
    """A query, its hits, and for each whether it is right."""

    query: str
    hits: Sequence[Hit]
    right: Sequence[bool]

    @property
    def rank(self) -> int | None:
        """Of the first right hit; None if there is none."""
        return self.right.index(True) + 1 if True in self.right else None


def main() -> None:
    samples = Samples()
    entries = json.loads((samples.folder / "queries.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder, xattn.open(Path(folder) / "index") as engine:
        engine.add(samples.photos)
        answers = []
        for entry in entries:
            hits = engine.search(entry["query"], len(engine))
            right = [hit.path.name in entry["relevant"] for hit in hits]
            answers.append(Answer(entry["query"], hits, right))
        first = sum(answer.right[0] for answer in answers)
        sheet(answers).save(RESULTS / "sample_queries.jpg", quality=80)
        (RESULTS / "sample_queries.md").write_text(table(answers, first), encoding="utf-8")
        figures = {
            "model": engine.model.fingerprint,
            "pictures": len(engine),
            "queries": len(answers),
            "right_first": first,
            "rank_of_first_right": {answer.query: answer.rank for answer in answers},
        }
        record("sample_queries", figures)


def table(answers: Sequence[Answer], first: int) -> str:
    lines = [
        f"A right photo is first for {first} of {len(answers)} queries.",
        "",
        "| query | first | right | rank of the first right one |",
        "|---|---|---|---|",
    ]
    for answer in answers:
        found = answer.hits[0].path.name
        lines.append(f"| {answer.query} | {found} | {'yes' if answer.right[0] else 'no'} | {answer.rank} |")
    return "\n".join(lines) + "\n"


def sheet(answers: Sequence[Answer]) -> Image.Image:
    """The best hits of each query with their maps, those that are right in a green frame."""
    column = SHOWN * (TILE[0] + GAP) + 2 * GAP
    row = TITLE + TILE[1] + 2 * GAP
    page = Image.new("RGB", (COLUMNS * column, ROWS * row + GAP), PAPER)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(15)
    for number, answer in enumerate(answers):
        left = number // ROWS * column + GAP
        top = number % ROWS * row + GAP
        draw.text((left, top + 2), answer.query, INK, font)
        for place in range(SHOWN):
            x = left + place * (TILE[0] + GAP)
            page.paste(tile(answer.hits[place], answer.right[place]), (x, top + TITLE))
    return page


def tile(hit: Hit, right: bool) -> Image.Image:
    """One photo with its maps, scaled to fit, centred on the size of all tiles."""
    picture = images.load(hit.path, at_least=max(TILE)).picture
    picture.thumbnail((TILE[0] - 2 * FRAME, TILE[1] - 2 * FRAME))
    drawn = overlay.render(picture, hit.groundings, size=hit.size, boxes=False)
    framed = Image.new(
        "RGB", (drawn.width + 2 * FRAME, drawn.height + 2 * FRAME), RIGHT if right else PAPER
    )
    framed.paste(drawn, (FRAME, FRAME))
    placed = Image.new("RGB", TILE, PAPER)
    placed.paste(framed, ((TILE[0] - framed.width) // 2, (TILE[1] - framed.height) // 2))
    return placed


if __name__ == "__main__":
    main()
