"""One photo through the default model against OpenCLIP's ViT-B/32; and how long it takes to start.

Both see a photo that is already decoded and resized, both run eagerly in float32, in turns in one run.
OpenCLIP's weights are random, which does not change its time. The default model resizes to one of three
shapes; each is measured, and the batch of 8 holds the first photos of the collection with whatever shapes
they have, as indexing meets them.

Starting is timed in new processes: the whole process that does nothing but load the default model, the
import and the load in it, and `xattn --help`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch

from benchmarks import record
from benchmarks.record import Figure, Result
from benchmarks.timing import in_turns, median_ratio, milliseconds
from xattn import images, load_model
from xattn.encoders import Frames
from xattn.model import XAttnModel
from xattn.service.samples import PROJECT_DIR, Samples

ROUNDS = 15
STARTS = 7
PEER = "ViT-B-32"
PEER_SIDE = 224
BATCH = 8
LOAD = """
import time
started = time.perf_counter()
import xattn
xattn.load_model("default", device="cpu")
print(time.perf_counter() - started)
"""


def measure(_: Path) -> Result:
    starting = _starting()
    model = load_model("default", device="cpu")
    encoding = _encoding(model)
    setting = {"peer": f"open_clip {open_clip.__version__} {PEER}", "rounds": ROUNDS, "starts": STARTS}
    return Result([*encoding, *starting], {**record.about(model), **setting})


def _encoding(model: XAttnModel) -> list[Figure]:
    photos, shapes = _photos(model)
    peer = open_clip.create_model(PEER, pretrained=None, device="cpu").eval()
    one, eight = (torch.rand(size, 3, PEER_SIDE, PEER_SIDE) for size in (1, BATCH))

    def encode_peer(frames: torch.Tensor) -> None:
        with torch.inference_mode():
            peer.encode_image(frames)

    tasks: dict[str, Callable[[], object]] = {"peer": partial(encode_peer, one)}
    for name, frames in shapes.items():
        tasks[name] = partial(model.encode_frames, [frames])
    single = in_turns(tasks, ROUNDS, warm_up=3)
    batch = in_turns(
        {"peer": partial(encode_peer, eight), "xattn": partial(model.encode_frames, photos)},
        max(5, ROUNDS // 3),
    )
    figures = [Figure(f"{PEER}, one photo", milliseconds(single["peer"]), "ms")]
    for name in shapes:
        figures += [
            Figure(f"xattn, one {name} photo", milliseconds(single[name]), "ms"),
            Figure(f"ratio, one {name} photo", median_ratio(single[name], single["peer"]), at_most=1.5),
        ]
    return [
        *figures,
        Figure(f"{PEER}, a photo of {BATCH}", milliseconds(batch["peer"]) / BATCH, "ms"),
        Figure(f"xattn, a photo of {BATCH}", milliseconds(batch["xattn"]) / BATCH, "ms"),
        Figure(f"ratio, {BATCH} photos", median_ratio(batch["xattn"], batch["peer"]), at_most=1.5),
    ]


def _photos(model: XAttnModel) -> tuple[list[Frames], dict[str, Frames]]:
    """The first photos of the collection, and one each of those that are wide, tall and square."""
    first: list[Frames] = []
    shapes: dict[str, Frames] = {}
    for path in images.scan(Samples().photos):
        assert isinstance(path, Path), path
        picture, (height, width) = images.load(path, at_least=model.vision.longest_side)
        frames = model.preprocess(picture)
        if len(first) < BATCH:
            first.append(frames)
        aspect = width / height
        kind = "square" if 0.95 < aspect < 1.05 else "wide" if 1.2 < aspect < 1.5 else None
        kind = "tall" if 1.2 < 1 / aspect < 1.5 else kind
        if kind is not None:
            shapes.setdefault(kind, frames)
    return first, dict(sorted(shapes.items()))


def _starting() -> list[Figure]:
    load: list[float] = []
    process: list[float] = []
    help_page: list[float] = []
    for _ in range(STARTS + 1):
        printed, seconds = _run("-c", LOAD)
        load.append(float(printed))
        process.append(seconds)
        help_page.append(_run("-m", "xattn", "--help")[1])
    # The first start reads the files from the disk.
    return [
        Figure("load the model, whole process", float(np.median(process[1:])), "s", at_most=5),
        Figure("load the model, import and load", float(np.median(load[1:])), "s"),
        Figure("load the model, slowest process", max(process), "s"),
        Figure("xattn --help", float(np.median(help_page[1:])), "s", at_most=0.5),
    ]


def _run(*arguments: str) -> tuple[str, float]:
    """What a new interpreter printed, and its seconds from start to end."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=PROJECT_DIR, capture_output=True, text=True, check=True
    )
    return done.stdout, time.perf_counter() - started


if __name__ == "__main__":
    assert __doc__
    record.main("encoder", __doc__.splitlines()[0], measure)
