"""What the command line prints: progress, reports, results as text for people, as lines, as JSON.

Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from xattn.datasets.check import CheckReport
    from xattn.encoders.openclip.listing import ModelInfo
    from xattn.engine import IndexInfo
    from xattn.types import AddReport, Grounding, Hit


out = Console(highlight=False, emoji=False, markup=False, soft_wrap=True)
err = Console(highlight=False, emoji=False, markup=False, soft_wrap=True, stderr=True)


ABSENT_FOLDERS = 10
"""Of a drive that is not there, so many folders are named."""


def is_interactive() -> bool:
    """Whether a person reads the results, rather than a pipe or a file."""
    return sys.stdout.isatty()


def plain(value: object) -> str:
    """A text that cannot steer the terminal: names of files may hold any character."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in str(value))


# --- for people -----------------------------------------------------------------------------------------


def print_report(report: AddReport, num_pictures: int, index_dir: Path) -> None:
    """What `Engine.add` did: each skipped file with its reason, then the sums."""
    for skipped in report.skipped:
        out.print(f"skipped {plain(skipped.path)}: {plain(skipped.reason)}")
    kinds = ("added", "updated", "moved", "removed", "unchanged", "absent", "skipped")
    counts = ", ".join(f"{len(getattr(report, kind))} {kind}" for kind in kinds if getattr(report, kind))
    absent = sorted(Counter(path.parent for path in report.absent).items())
    for folder, number in absent[:ABSENT_FOLDERS]:
        out.print(f"{number} pictures of {plain(folder)} are not there now; kept; `--prune` removes them")
    if more := absent[ABSENT_FOLDERS:]:
        out.print(f"so are {sum(number for _, number in more)} pictures of {len(more)} other folders")
    out.print(f"{counts or 'no pictures found'}, in {report.seconds:.1f} s")
    out.print(f"{num_pictures} pictures can be found in the index at {plain(index_dir)}")


def print_hits(hits: Sequence[Hit]) -> None:
    """Two lines a hit: how probably it matches and its path; the same of each phrase."""
    from rich.text import Text

    for hit in hits:
        line = Text(f"{hit.rank:>3}  ").append(f"{hit.probability:>5.0%}", style="bold")
        copies = f"  (and {len(hit.copies)} of the same content)" if hit.copies else ""
        out.print(line.append(f"  {plain(hit.path)}").append(copies, style="dim"))
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
    listed("entries cannot be read", [str(entry) for entry in report.skipped if entry.is_fatal])
    unreadable = [str(entry) for entry in report.skipped if entry.kind == "picture"]
    listed("picture files cannot be read", unreadable)
    listed("boxes cannot be used", [str(entry) for entry in report.skipped if entry.kind == "box"])
    listed("files are not used", [str(entry) for entry in report.skipped if entry.kind == "file"])
    if report.num_unaccounted:
        out.print(f"  {report.num_unaccounted} of {report.num_entries} entries are neither read nor named")
    listed("pictures in the same folders are not in the data", [str(path) for path in report.unlisted])
    pairs = [f"{pair.first} and {pair.second}" for pair in report.near_duplicates]
    listed(
        "pairs of pictures look the same in two splits"
        if report.has_splits
        else "pairs of pictures look the same: one may be trained on and the other held out",
        pairs,
    )
    read = f"{report.num_used} of {report.num_entries} entries were read"
    out.print(f"{read}, from {', '.join(map(plain, report.sources))}")
    if report.is_flawless:
        out.print("nothing is wrong")


# --- for programs ---------------------------------------------------------------------------------------


def print_lines(rows: Iterable[Sequence[object]]) -> None:
    """Tabs between the fields.

    A field with a control character, or one that begins with a quote, is a JSON string: a line stays one,
    and the field can be read back. Others are printed exactly as they are.
    """
    for row in rows:
        sys.stdout.write("\t".join(map(_field, row)) + "\n")


def _field(value: object) -> str:
    text = str(value)
    if text.startswith('"') or any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in text):
        return json.dumps(text)
    return text


def hit_fields(hit: Hit) -> Sequence[object]:
    return hit.rank, f"{hit.probability:.4f}", f"{hit.score:.4f}", hit.path


def grounding_fields(grounding: Grounding) -> Sequence[object]:
    box = _corners(0, grounding) if grounding.boxes else ""
    return grounding.phrase.text, f"{grounding.probability:.4f}", f"{grounding.score:.4f}", box


def print_json(content: dict[str, Any]) -> None:
    """One line of ASCII, so that no encoding of the output can garble it."""
    sys.stdout.write(json.dumps(content, allow_nan=False) + "\n")


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
