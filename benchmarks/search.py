"""How long a warm search over the sample photos takes, maps included, and how far that is from its floor.

The floor is what no search can do without, in the same run: encode the query's texts once, read the
regions of every candidate once, and multiply them with two probes (key, value) per head and text.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import xattn
from benchmarks.record import interleaved, milliseconds, record
from xattn.phrases import parse
from xattn.ui.samples import Samples

K = 12
ROUNDS = 5


def main() -> None:
    samples = Samples()
    with tempfile.TemporaryDirectory() as folder, xattn.open(Path(folder) / "index") as engine:
        engine.add(samples.photos)
        model = engine.model
        num_candidates = min(len(engine), 100)
        regions = torch.randn(num_candidates * 192, model.dim)

        def search() -> None:
            for query in samples.queries:
                engine.search(query, K)

        def encode_texts() -> None:
            for query in samples.queries:
                model.encode_texts([query, *(phrase.text for phrase in parse(query).phrases)])

        def multiply() -> None:
            for _ in samples.queries:
                torch.mm(regions, torch.ones(model.dim, 2 * model.attention.num_heads))

        seconds = interleaved({"search": search, "texts": encode_texts, "regions": multiply}, ROUNDS)
        each = {
            name: milliseconds([round_ / len(samples.queries) for round_ in found])
            for name, found in seconds.items()
        }
        floor = each["texts"]["median_ms"] + each["regions"]["median_ms"]
        record(
            "search",
            {
                "pictures": len(engine),
                "results": K,
                "search": each["search"],
                "floor_texts": each["texts"],
                "floor_regions": each["regions"],
                "times_floor": round(each["search"]["median_ms"] / floor, 2),
            },
        )


if __name__ == "__main__":
    main()
