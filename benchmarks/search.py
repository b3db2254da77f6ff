"""A warm search over the sample photos, maps included, against what it cannot do without.

Every query of data/samples/queries.json is searched in several rounds with the index, the model and the
parser already in memory. Floors, timed in turns with the search of the same query: encoding the query's
texts; reading the regions of as many pictures as are re-ranked from memory; one product of the query with
the pooled vectors of the collection. A search has to do at least that much.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks import record
from benchmarks.record import Figure, Result
from benchmarks.timing import in_turns, median_ratio, milliseconds
from xattn import load_model
from xattn.engine import Engine
from xattn.geometry import boxes_from_map
from xattn.query import parse
from xattn.service.samples import Samples
from xattn.store import Store
from xattn.store.schema import Identity

ROUNDS = 10
RERANKED = 100
"""Pictures that the first stage of a search with the default k hands to the second."""


def measure(_: Path) -> Result:
    model = load_model("default", device="cpu")
    with TemporaryDirectory() as folder, record.indexed_samples(model, Path(folder)) as engine:
        seconds = _time(engine, Path(folder))
        num_pictures = len(engine)
    floors = ("text encoding", "region bytes", "pooled product")
    all_floors = np.sum([seconds[name] for name in floors], axis=0)
    figures = [
        Figure("search, median", milliseconds(seconds["search"]), "ms", at_most=120),
        Figure("search, 95th percentile", milliseconds(seconds["search"], 95), "ms"),
        *(Figure(f"floor: {name}, median", milliseconds(seconds[name]), "ms") for name in floors),
        Figure("search ÷ all floors", median_ratio(seconds["search"], all_floors)),
        Figure("boxes of one map ÷ search", median_ratio(seconds["boxes of one map"], seconds["search"])),
    ]
    setting = {
        "pictures": num_pictures,
        "reranked": min(RERANKED, num_pictures),
        "queries": len(Samples().queries),
        "rounds": ROUNDS,
    }
    return Result(figures, {**record.about(model), **setting})


def _time(engine: Engine, folder: Path) -> dict[str, np.ndarray]:
    """Seconds of the search, of each floor and of one map's boxes, of all queries and rounds."""
    model = engine.model
    store = Store(folder, Identity(model.feature_fingerprint, model.name, model.dim))
    try:
        ids = store.catalogue.content_ids().tolist()
        region_bytes = store.read(ids[:RERANKED])[1].regions.half().numpy().view(np.uint64)
        pooled = store.read(ids)[1].pooled
    finally:
        store.close()

    spread = np.random.default_rng(0).random((15, 20), np.float32) ** 4
    found: dict[str, list[np.ndarray]] = {}
    for query in Samples().queries:
        texts = [query, *(phrase.text for phrase in parse(query).phrases if phrase.text != query)]
        vector = model.encode_texts([query])
        tasks: dict[str, Callable[[], object]] = {
            "search": partial(engine.search, query),
            "text encoding": partial(model.encode_texts, texts),
            "region bytes": region_bytes.max,  # touches each byte once and writes none
            "pooled product": partial(torch.matmul, pooled, vector.T),
            "boxes of one map": partial(boxes_from_map, spread, (480, 640)),
        }
        for name, values in in_turns(tasks, ROUNDS, warm_up=2).items():
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in found.items()}


if __name__ == "__main__":
    assert __doc__
    record.main("search", __doc__.splitlines()[0], measure)
