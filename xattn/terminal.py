"""What the command line prints: progress, reports, results as text for people, as lines, as JSON.

Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from xattn.datasets.check import CheckReport
    from xattn.encoders.openclip_catalogue import ModelInfo
    from xattn.engine import IndexInfo
    from xattn.types import AddReport, Grounding, Hit

BURST_SECONDS, FIRST_SECONDS, PACE_SECONDS = 0.5, 2.0, 30.0
"""Of a task: what comes so early was done before; a pace is told from then on; it is one of so long."""
LINE_SECONDS = 10.0
"""Where no bar can be drawn, a line tells the progress about this often."""

out = Console(highlight=False, emoji=False, markup=False, soft_wrap=True)
err = Console(highlight=False, emoji=False, markup=False, soft_wrap=True, stderr=True)


DOWNLOADED = ("openclip:", "hf-hub:")
"""How names of models begin that may be downloaded; as in xattn.checkpoint, which is slow to import."""


@contextmanager
def loading(*models: str) -> Iterator[None]:
    """Tells that models are loaded. Downloads draw bars of their own, which a spinner would hide."""
    downloaded = [name for name in models if name.startswith(DOWNLOADED)]
    if not downloaded:
        with err.status("loading"):
            yield
        return
    if err.is_terminal:
        err.print(f"loading {', '.join(map(plain, downloaded))}")
    yield


def is_interactive() -> bool:
    """Whether a person reads the results, rather than a pipe or a file."""
    return sys.stdout.isatty()


def plain(value: object) -> str:
    """A text that cannot steer the terminal: names of files may hold any character."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in str(value))


class Bar:
    """Progress on standard error: a bar at a terminal, else a line every few seconds.

    A context manager; `update` may name one task after another. note: shown behind the task
    at_once: whether it is drawn before the first update; it would hide what else draws meanwhile
    """

    def __init__(self, task: str, unit: str = "", at_once: bool = True) -> None:
        from rich import progress

        self._task = task
        self._unit = f" {unit}" if unit else ""
        self._last_line = time.monotonic()
        self._pace = _Pace()
        self._at_once = at_once
        self.note = ""
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TextColumn("{task.fields[note]}"),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._id = self._bar.add_task(task, total=None, rate="", note="")

    def __enter__(self) -> Bar:
        if self._at_once:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, task: str, done: int, total: int) -> None:
        self._bar.start()
        if task != self._task:
            self._task, self._pace = task, _Pace()
            self._bar.reset(self._id, description=task)
        now = time.monotonic()
        speed = self._pace.at(done, now)
        rate = ""
        if speed:
            left = time.strftime("%H:%M:%S", time.gmtime((total - done) / speed))
            rate = f"{speed:.1f}{self._unit}/s, {left} left"
        self._bar.update(self._id, completed=done, total=total, rate=rate, note=self.note)
        if self._bar.disable and now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            parts = (f"{task}: {done} of {total}", rate, self.note)
            err.print(", ".join(part for part in parts if part))


class _Pace:
    """How fast something advances, over the last half minute.

    What was done before, by an earlier run, comes in one burst at the start: it is not counted.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, done: int, now: float) -> float | None:
        """Per second; None: not known yet."""
        if not self._seen:
            self._seen.append((now, done))
        first, last = self._seen[0], self._seen[-1]
        if len(self._seen) == 1 and now - first[0] < BURST_SECONDS:
            self._seen[0] = (first[0], done)
            return None
        if now - last[0] >= 1:
            self._seen.append((now, done))
        while now - self._seen[0][0] > PACE_SECONDS and len(self._seen) > 2:
            self._seen.popleft()
        started, before = self._seen[0]
        if done == before or now - started < FIRST_SECONDS:
            return None
        return (done - before) / (now - started)


# --- for people -----------------------------------------------------------------------------------------


def print_report(report: AddReport, num_pictures: int, index_dir: Path) -> None:
    """What `Engine.add` did: each skipped file with its reason, then the sums."""
    for skipped in report.skipped:
        out.print(f"skipped {plain(skipped.path)}: {plain(skipped.reason)}")
    kinds = ("added", "updated", "moved", "removed", "unchanged", "skipped")
    counts = ", ".join(f"{len(getattr(report, kind))} {kind}" for kind in kinds if getattr(report, kind))
    out.print(f"{counts or 'no pictures found'}, in {report.seconds:.1f} s")
    out.print(f"{num_pictures} pictures can be found in the index at {plain(index_dir)}")


def print_hits(hits: Sequence[Hit]) -> None:
    """Two lines a hit: how probably it matches and its path; the same of each phrase."""
    from rich.text import Text

    for hit in hits:
        line = Text(f"{hit.rank:>3}  ").append(f"{hit.probability:>5.0%}", style="bold")
        out.print(line.append(f"  {plain(hit.path)}"))
        if hit.phrases:
            parts = (f"{plain(part.phrase.text)} {part.probability:.0%}" for part in hit.phrases)
            out.print(Text(f"{'':12}{', '.join(parts)}", style="dim"))


def print_groundings(groundings: Sequence[Grounding]) -> None:
    from rich.table import Table

    table = Table("phrase", "match", "score", "nowhere", "boxes (x1, y1, x2, y2)", box=None, pad_edge=False)
    for column in table.columns[1:4]:
        column.justify = "right"
    for g in groundings:
        boxes = "\n".join(f"{_corners(i, g)}  {box.weight:.0%}" for i, box in enumerate(g.boxes))
        cells = (plain(g.phrase.text), f"{g.probability:.0%}", f"{g.score:.2f}", f"{g.null_weight:.0%}")
        table.add_row(*cells, (boxes or "-") if g.found else "not found")
    out.print(table, soft_wrap=False)


def print_info(info: IndexInfo) -> None:
    rows = {
        "index": info.index_dir,
        "pictures": info.num_pictures,
        "regions": f"{info.num_regions} of width {info.dim}",
        "size on disk": f"{info.num_bytes / 1e6:.1f} MB",
        "model": f"{info.model_name} ({info.fingerprint[:12]})",
        "format": info.format_version,
    }
    for name, value in rows.items():
        out.print(f"{name + ':':<14}{plain(value)}")


MOST_LISTED = 10


def print_check(report: CheckReport) -> None:
    """What `check_dataset` found, each kind of fault with its first cases."""

    def listed(what: str, cases: Sequence[str]) -> None:
        if cases:
            out.print(f"  {len(cases)} {what}")
            for case in cases[:MOST_LISTED]:
                out.print(f"    {plain(case)}")
            if len(cases) > MOST_LISTED:
                out.print("    …")

    for split in report.splits:
        out.print(f"{plain(split.name)}: {split.num_pictures} pictures, {split.num_captions} captions")
        listed("pictures are missing", [str(path) for path in split.missing])
        listed("pictures cannot be read", [f"{s.path}: {s.reason}" for s in split.broken])
        listed("pictures have no caption", [str(path) for path in split.without_caption])
        if split.num_blank:
            out.print(f"  {split.num_blank} captions are blank")
        shared = [f"{count} pictures: {text}" for text, count in split.shared_captions]
        listed("captions belong to several pictures", shared)
    pairs = [f"{pair.first} and {pair.second}" for pair in report.near_duplicates]
    listed(
        "pairs of pictures look the same in two splits"
        if report.has_splits
        else "pairs of pictures look the same: one may be trained on and the other held out",
        pairs,
    )
    if report.is_usable and not report.near_duplicates:
        out.print("nothing is wrong")


# --- for programs ---------------------------------------------------------------------------------------


def print_lines(rows: Iterable[Sequence[object]]) -> None:
    """Tabs between the fields, which are printed exactly as they are."""
    for row in rows:
        sys.stdout.write("\t".join(map(str, row)) + "\n")


def hit_fields(hit: Hit) -> Sequence[object]:
    return hit.rank, f"{hit.probability:.4f}", f"{hit.score:.4f}", hit.path


def grounding_fields(grounding: Grounding) -> Sequence[object]:
    box = _corners(0, grounding) if grounding.boxes else ""
    return grounding.phrase.text, f"{grounding.probability:.4f}", f"{grounding.score:.4f}", box


def print_json(content: dict[str, Any]) -> None:
    """One line of ASCII, so that no encoding of the output can garble it."""
    sys.stdout.write(json.dumps(content, allow_nan=False) + "\n")


def hit_record(hit: Hit) -> dict[str, Any]:
    return {
        "rank": hit.rank,
        "path": os.fspath(hit.path),
        "height": hit.size[0],
        "width": hit.size[1],
        "score": hit.score,
        "probability": hit.probability,
        "whole": grounding_record(hit.whole),
        "phrases": [grounding_record(part) for part in hit.phrases],
    }


def grounding_record(grounding: Grounding) -> dict[str, Any]:
    """`xattn.Grounding` field by field; maps are lists of rows."""
    return {
        "text": grounding.phrase.text,
        "start": grounding.phrase.start,
        "end": grounding.phrase.end,
        "source": grounding.phrase.source,
        "score": grounding.score,
        "probability": grounding.probability,
        "null_weight": grounding.null_weight,
        "found": grounding.found,
        "weights": _rows(grounding.weights),
        "contributions": _rows(grounding.contributions),
        "rest": grounding.rest,
        "boxes": [{"box": list(box), "weight": weight} for box, weight in grounding.boxes],
    }


def info_record(info: IndexInfo) -> dict[str, Any]:
    return {
        "index_dir": os.fspath(info.index_dir),
        "num_pictures": info.num_pictures,
        "num_regions": info.num_regions,
        "num_bytes": info.num_bytes,
        "dim": info.dim,
        "model_name": info.model_name,
        "fingerprint": info.fingerprint,
        "format_version": info.format_version,
    }


def _rows(grid: Float[np.ndarray, "H W"]) -> list[list[float]]:
    """Seven decimals: float32 holds no more of a weight, and 0.1 stays 0.1."""
    rows: list[list[float]] = grid.astype(float).round(7).tolist()
    return rows


def _corners(i: int, grounding: Grounding) -> str:
    return ", ".join(f"{value:.0f}" for value in grounding.boxes[i].box)


def print_models(models: Sequence[ModelInfo]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    table.add_column("parameters", justify="right")
    for title in ("picture", "regions", "maps", "licence of the weights"):
        table.add_column(title)
    for model in models:
        name, *fields = model_fields(model)
        table.add_row(str(name), *map(str, fields))
    out.print(table, soft_wrap=False)
    out.print(f"{len(models)} models")


def model_fields(model: ModelInfo) -> Sequence[object]:
    millions = "unknown" if model.millions is None else f"{model.millions:.0f} M"
    picture = f"{model.size[0]}×{model.size[1]}"
    return model.name, millions, picture, f"{model.grid[0]}×{model.grid[1]}", model.maps, model.licence


def model_record(model: ModelInfo) -> dict[str, Any]:
    return {
        "name": model.name,
        "parameters": None if model.millions is None else round(model.millions * 1e6),
        "height": model.size[0],
        "width": model.size[1],
        "rows": model.grid[0],
        "columns": model.grid[1],
        "maps": model.maps,
        "licence": model.licence,
    }
