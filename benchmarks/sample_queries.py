"""What the default model finds among the sample photos for 20 everyday queries.

The sample photos are no part of the training data; which photos are right for a query was written down by
hand (data/samples/queries.json) and is not shown to the model. Besides the figures this writes
sample_queries.jpg, the best three hits of each query, and sample_queries.md, the table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import contact_sheet, record
from benchmarks.contact_sheet import Row
from benchmarks.record import Figure, Result
from xattn import load_model
from xattn.engine import Engine
from xattn.service.samples import Samples

SHOWN = 3


def measure(out: Path) -> Result:
    model = load_model("default", device="cpu")
    with TemporaryDirectory() as folder, record.indexed_samples(model, Path(folder)) as engine:
        rows = search(engine)
        num_pictures = len(engine)
    sheet = contact_sheet.draw(
        [Row(row.query, row.hits[:SHOWN], row.relevant) for row in rows], num_pictures
    )
    contact_sheet.save(sheet, out / "sample_queries.jpg")
    (out / "sample_queries.md").write_text(table(rows), encoding="utf-8")
    ranks = [first_right(row) for row in rows]
    setting = {
        "pictures": num_pictures,
        "queries": len(rows),
        "rank_of_first_right": {row.query: rank for row, rank in zip(rows, ranks, strict=True)},
    }
    figures = [
        Figure("a right photo first", sum(rank == 1 for rank in ranks), "queries", at_least=17),
        Figure(
            "a right photo among three",
            sum(rank is not None and rank <= SHOWN for rank in ranks),
            "queries",
        ),
        Figure("of", len(rows), "queries"),
    ]
    return Result(figures, {**record.about(model), **setting})


def search(engine: Engine) -> list[Row]:
    """Each query of the collection with the hits of a search as it comes."""
    entries = json.loads((Samples().folder / "queries.json").read_text(encoding="utf-8"))
    return [Row(e["query"], engine.search(e["query"]), frozenset(e["relevant"])) for e in entries]


def first_right(row: Row) -> int | None:
    """Rank of the first hit that is right, from 1; None if none is."""
    return next((hit.rank for hit in row.hits if row.is_right(hit)), None)


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| query | first hit | right | first right hit |",
        "|---|---|---|---|",
    ]
    right_first = 0
    for row in rows:
        rank = first_right(row)
        right_first += rank == 1
        place = f"beyond {len(row.hits)}" if rank is None else str(rank)
        verdict = "yes" if rank == 1 else "no"
        lines.append(f"| {row.query} | {row.hits[0].path.name} | {verdict} | {place} |")
    found = f"A right photo comes first for {right_first} of {len(rows)} queries."
    return "\n".join(["<!-- written by python -m benchmarks.sample_queries -->", *lines, "", found, ""])


if __name__ == "__main__":
    assert __doc__
    record.main("sample_queries", __doc__.splitlines()[0], measure)
