"""The log of a run as a picture: loss above, recall below."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

WIDTH, HEIGHT, MARGIN = 900, 280, 46
COLORS = {"loss": "#1f77b4", "recall_1": "#d62728", "recall_5": "#2ca02c", "recall_10": "#9467bd"}

Points = Sequence[tuple[float, float]]


def draw_curves(log: Path, out: Path) -> None:
    """log: JSON lines, with `step` and `loss` or recalls; out: a .png"""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]

    def points(name: str) -> Points:
        return [(e["step"], e[name]) for e in entries if name in e]

    picture = Image.new("RGB", (WIDTH, 2 * HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    _panel(draw, 0, {"loss": points("loss")}, None)
    _panel(draw, HEIGHT, {name: points(name) for name in COLORS if name != "loss"}, (0.0, 1.0))
    picture.save(out)


def _panel(
    draw: ImageDraw.ImageDraw, top: int, curves: dict[str, Points], span: tuple[float, float] | None
) -> None:
    everything = [point for curve in curves.values() for point in curve]
    if not everything:
        return
    low, high = span or (min(y for _, y in everything), max(y for _, y in everything))
    last = max(1.0, max(x for x, _ in everything))
    left, right, bottom = MARGIN, WIDTH - MARGIN // 2, top + HEIGHT - MARGIN // 2

    def place(x: float, y: float) -> tuple[float, float]:
        share = (y - low) / (high - low) if high > low else 0.5
        return left + (right - left) * x / last, bottom - (bottom - top - MARGIN // 2) * share

    draw.line([(left, top + MARGIN // 2), (left, bottom), (right, bottom)], fill="#888888")
    for y in (low, high):
        draw.text((4, place(0, y)[1] - 6), f"{y:.3g}", fill="black")
    draw.text((right - 60, bottom + 4), f"step {last:.0f}", fill="black")
    for number, (name, curve) in enumerate(curves.items()):
        draw.text((left + 10 + 90 * number, top + 6), name, fill=COLORS[name])
        places = [place(*point) for point in curve]
        if len(places) > 1:
            draw.line(places, fill=COLORS[name], width=2)
