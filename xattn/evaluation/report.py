"""Figures with intervals and tests, as JSON and as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from xattn.evaluation.measures import Measured, Settings
from xattn.metrics.intervals import Difference, Interval, bootstrap_interval, paired_difference
from xattn.types import Skipped

if TYPE_CHECKING:
    from rich.table import Table

FEWEST_SHOWN = 10
"""Figures of fewer cases are in the JSON, not in the table."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a report. Shares are in [0, 1] here, and in percent in tables.

    group, measure, subject: what was measured of whom ("text → image", "recall@1", "two-stage")
    num_cases:  how many cases it is made of
    value:      with its 95 % interval
    reference:  the subject that `gain` compares with, of the same group and measure
    gain:       value less the reference's, paired
    other:      the second model's value
    difference: value less the second model's, paired
    """

    group: str
    measure: str
    subject: str
    num_cases: int
    is_share: bool
    value: Interval
    reference: str | None = None
    gain: Difference | None = None
    other: Interval | None = None
    difference: Difference | None = None


@dataclass(frozen=True, slots=True)
class ModelName:
    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Report:
    """What `evaluate` found. `figure` looks one up; `to_json`, `markdown` and `table` write all of them."""

    dataset: str
    split: str | None
    num_pictures: int
    num_captions: int
    model: ModelName
    other: ModelName | None
    settings: Settings
    figures: tuple[Figure, ...]
    skipped: tuple[Skipped, ...] = ()

    def figure(self, group: str, measure: str, subject: str) -> Figure:
        """Raises KeyError, with what there is, if it was not measured."""
        for figure in self.figures:
            if (figure.group, figure.measure, figure.subject) == (group, measure, subject):
                return figure
        known = [(figure.group, figure.measure, figure.subject) for figure in self.figures]
        raise KeyError(f"no figure {(group, measure, subject)}; there are {known}")

    def to_json(self) -> str:
        """Every figure; undefined ones (a precision without any case) are null."""
        content: dict[str, Any] = {
            "dataset": self.dataset,
            "split": self.split,
            "num_pictures": self.num_pictures,
            "num_captions": self.num_captions,
            "model": asdict(self.model),
            "other": self.other and asdict(self.other),
            "settings": asdict(self.settings),
            "figures": [_jsonable(figure) for figure in self.figures],
            "skipped": [{"path": str(path.path), "reason": path.reason} for path in self.skipped],
        }
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)

    def markdown(self) -> str:
        """The table in GitHub's Markdown."""
        header, rows = self._cells()
        lines = [header, ["---"] * 2 + ["--:"] * (len(header) - 2), *rows]
        table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        return f"{self._title()}\n\n{table}\n\n{self._notes()}\n"

    def table(self) -> Table:
        """The same for a terminal."""
        from rich.box import SIMPLE
        from rich.table import Table

        header, rows = self._cells()
        table = Table(
            title=self._title(), caption=self._notes(), caption_justify="left", box=SIMPLE, pad_edge=False
        )
        for i, name in enumerate(header):
            # On a narrow terminal the cells wrap, between a value and its interval too; no column vanishes.
            table.add_column(name, justify="left" if i < 2 else "right", overflow="fold", min_width=5)
        for row, following in zip(rows, [*rows[1:], header], strict=True):
            table.add_row(*row, end_section=row[0] != following[0])
        return table

    def _title(self) -> str:
        split = f", {self.split}" if self.split else ""
        models = self.model.name if self.other is None else f"{self.model.name} and {self.other.name}"
        return (
            f"{models} on {self.dataset}{split}: {self.num_pictures} pictures, {self.num_captions} captions"
        )

    def _notes(self) -> str:
        few = sum(figure.num_cases < FEWEST_SHOWN for figure in self.figures)
        notes = ["In brackets: 95 % bootstrap intervals over pictures. Shares in percent."]
        if few:
            notes.append(f"Not shown: {few} figures of fewer than {FEWEST_SHOWN} cases.")
        if self.skipped:
            notes.append(f"Left out: {len(self.skipped)} pictures that could not be read.")
        return " ".join(notes)

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        header = ["measure", "of", "cases", self.model.name, "gain over reference"]
        if self.other is not None:
            header += [self.other.name, "difference", "p"]
        shown = [figure for figure in self.figures if figure.num_cases >= FEWEST_SHOWN]
        return header, [self._row(figure) for figure in shown]

    def _row(self, figure: Figure) -> list[str]:
        cells = [f"{figure.group}, {figure.measure}", figure.subject, str(figure.num_cases)]
        cells += [_shown(figure.value, figure), _shown(figure.gain, figure, signed=True)]
        if self.other is not None:
            cells += [_shown(figure.other, figure), _shown(figure.difference, figure, signed=True)]
            cells.append("" if figure.difference is None else f"{figure.difference.p_value:.3f}")
        return cells


def make_figures(
    measured: Sequence[Measured], other: Sequence[Measured] | None, settings: Settings
) -> Iterator[Figure]:
    """Figures of one model, compared with those of another on the same cases if there is one."""
    by_key = {(m.group, m.measure, m.subject): m for m in measured}
    others = {(m.group, m.measure, m.subject): m for m in other or () if not m.is_baseline}

    def difference(a: Measured, b: Measured | None) -> Difference | None:
        if b is None:
            return None
        return paired_difference(
            a.values,
            b.values,
            a.pictures,
            a.statistic,
            num_resamples=settings.num_resamples,
            seed=settings.seed,
        )

    def interval(m: Measured | None) -> Interval | None:
        if m is None:
            return None
        return bootstrap_interval(
            m.values, m.pictures, m.statistic, num_resamples=settings.num_resamples, seed=settings.seed
        )

    for key, m in by_key.items():
        value = interval(m)
        assert value is not None
        reference = by_key.get((m.group, m.measure, m.reference)) if m.reference else None
        yield Figure(
            *key,
            num_cases=len(m.values),
            is_share=m.is_share,
            value=value,
            reference=m.reference,
            gain=difference(m, reference),
            other=interval(others.get(key)),
            difference=difference(m, others.get(key)),
        )


def _shown(value: Interval | Difference | None, figure: Figure, *, signed: bool = False) -> str:
    if value is None:
        return ""
    if math.isnan(value.value):
        return "undefined"
    factor, digits = (100, 1) if figure.is_share else (1, 1 if figure.measure == "median rank" else 3)
    form = f"{'+' if signed else ''}.{digits}f"
    middle, low, high = (format(factor * number, form) for number in value[:3])
    return f"{middle} [{low}, {high}]"


def _jsonable(figure: Figure) -> dict[str, Any]:
    def plain(value: Interval | Difference | None) -> dict[str, float | None] | None:
        if value is None:
            return None
        return {key: None if math.isnan(x) else x for key, x in value._asdict().items()}

    fields = asdict(figure)
    for key in ("value", "gain", "other", "difference"):
        fields[key] = plain(getattr(figure, key))
    return fields
