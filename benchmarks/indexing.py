"""Indexing the sample photos against the vision tower alone.

`Engine.add` into a new index (hash, decode, resize, encode, store) and `encode_frames` over the same
photos, already decoded and resized, take turns in one run, with the same batches. If decoding overlapped
perfectly and storing cost nothing, both would be equally fast; on a processor whose cores the encoder
keeps busy, decoding costs at least its own work, which is measured too.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import record
from benchmarks.record import Figure, Result
from benchmarks.timing import in_turns, median_ratio
from xattn import images, load_model
from xattn.encoders import Frames
from xattn.engine import open_index
from xattn.model import XAttnModel
from xattn.service.samples import Samples

ROUNDS = 3
BATCH = 8


def measure(_: Path) -> Result:
    model = load_model("default", device="cpu")
    paths = [path for path in images.scan(Samples().photos) if isinstance(path, Path)]
    frames = _decoded(model, paths)

    def add() -> None:
        with TemporaryDirectory() as folder, open_index(folder, model) as engine:
            report = engine.add(Samples().photos, batch_size=BATCH)
        assert len(report.added) == len(paths), report.skipped

    def encode() -> None:
        for start in range(0, len(frames), BATCH):
            model.encode_frames(frames[start : start + BATCH])

    model.encode_frames(frames[:BATCH])  # warm: a whole round would cost a minute
    tasks = {"add": add, "tower": encode, "decode": lambda: _decoded(model, paths)}
    seconds = in_turns(tasks, ROUNDS, warm_up=0)
    ratios = seconds["tower"] / seconds["add"]
    figures = [
        Figure("Engine.add", len(paths) / float(np.median(seconds["add"])), "pictures/s"),
        Figure("tower alone", len(paths) / float(np.median(seconds["tower"])), "pictures/s"),
        Figure("Engine.add ÷ tower, median", median_ratio(seconds["tower"], seconds["add"]), at_least=0.85),
        Figure("Engine.add ÷ tower, lowest", float(ratios.min())),
        Figure("Engine.add ÷ tower, highest", float(ratios.max())),
        Figure("decoding on one thread ÷ tower's time", median_ratio(seconds["decode"], seconds["tower"])),
    ]
    setting = {"pictures": len(paths), "batch_size": BATCH, "rounds": ROUNDS}
    return Result(figures, {**record.about(model), **setting})


def _decoded(model: XAttnModel, paths: list[Path]) -> list[Frames]:
    side = model.vision.longest_side
    return [model.preprocess(images.load(path, at_least=side).picture) for path in paths]


if __name__ == "__main__":
    assert __doc__
    record.main("indexing", __doc__.splitlines()[0], measure)
