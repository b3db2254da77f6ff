"""Pictures per second of indexing, as a share of what the vision tower alone does in the same run.

The tower gets pictures that are decoded and resized already, in the batches that indexing makes.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import xattn
from benchmarks.record import interleaved, record
from xattn import images
from xattn.ui.samples import Samples

ROUNDS = 5
BATCH_SIZE = 8


def main() -> None:
    model = xattn.load_model()
    paths = sorted(Samples().photos.iterdir())
    frames = [
        model.preprocess(images.load(path, at_least=model.vision.longest_side).picture) for path in paths
    ]

    def encode() -> None:
        for start in range(0, len(frames), BATCH_SIZE):
            model.encode_frames(frames[start : start + BATCH_SIZE])

    def index() -> None:
        with tempfile.TemporaryDirectory() as folder, xattn.open(Path(folder), model=model) as engine:
            engine.add(paths, batch_size=BATCH_SIZE)

    seconds = interleaved({"tower": encode, "indexing": index}, ROUNDS, warmups=1)
    rates = {name: [len(paths) / each for each in found] for name, found in seconds.items()}
    shares = [b / a for a, b in zip(rates["tower"], rates["indexing"], strict=True)]
    record(
        "indexing",
        {
            "pictures": len(paths),
            "tower_pictures_per_s": round(statistics.median(rates["tower"]), 2),
            "indexing_pictures_per_s": round(statistics.median(rates["indexing"]), 2),
            "share_of_tower": round(statistics.median(shares), 3),
            "share_in_each_round": [round(share, 3) for share in shares],
        },
    )


if __name__ == "__main__":
    main()
