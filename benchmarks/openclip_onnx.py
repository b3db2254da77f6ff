"""ONNX Runtime against torch: time per picture of open_clip's towers and the default model's nets.

    python -m benchmarks.openclip_onnx [--rounds N] [--batch N] [--threads N]

Weights are random: time does not depend on them. Both run in the same process with the same number of
threads, in turn. What is timed is what a graph stands in for: the whole tower of open_clip's models, with
the default dense method; the two nets of the default model, whose fusion stays in torch. Whether they agree
is told by the lowest cosine of each output. Where other work runs beside it, several threads wait for each
other and torch's wait longer, which flatters ONNX Runtime: then use --threads 1. The fastest round counts,
as the one least disturbed, and the time of the processor is given too. Writes
benchmarks/results/openclip_onnx.json.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime
import open_clip
import torch
from open_clip.transform import PreprocessCfg
from PIL import Image

from benchmarks.record import keep
from xattn import load_model
from xattn.encoders import TextEncoder, VisionEncoder
from xattn.encoders.graphs import parts
from xattn.encoders.onnx import Graph, export_function
from xattn.encoders.openclip import OpenClipVision, RegionConfig
from xattn.encoders.openclip_models import build_clip

MODELS = ("ViT-B-32", "ViT-B-16", "default")


def vision_of(name: str) -> VisionEncoder:
    if name == "default":
        return load_model("default", device="cpu").vision
    torch.manual_seed(0)
    config = open_clip.get_model_config(name)
    visual = build_clip(config).get_submodule("visual")
    return OpenClipVision(visual, config, asdict(PreprocessCfg()), RegionConfig()).eval()


def inputs_of(vision: VisionEncoder, batch: int) -> tuple[torch.Tensor, ...]:
    if isinstance(vision, OpenClipVision):
        side = vision.model_config["vision_cfg"]["image_size"]
        return (torch.randn(batch, 3, side, side),)
    frames = [vision.preprocess(Image.effect_noise((640, 480), 90).convert("RGB")) for _ in range(batch)]
    return tuple(torch.stack(views) for views in zip(*frames, strict=True))


def measure(name: str, batch: int, rounds: int) -> dict[str, Any]:
    vision = vision_of(name)
    (part, *_) = parts(vision, NoText())
    function, inputs = getattr(vision, part.method), inputs_of(vision, batch)
    with TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder, part.file)
        with torch.inference_mode(False):
            export_function(function, vision, part.sample(), path)
        graph = Graph(path, vision)
        runs: dict[str, Callable[[], Any]] = {
            "torch": lambda: function(*inputs),
            "onnxruntime": lambda: graph(*inputs),
        }
        ours, others = (run() for run in runs.values())
        wall: dict[str, list[float]] = {name: [] for name in runs}
        processor: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for runner, run in runs.items():
                started, used = time.perf_counter(), time.process_time()
                run()
                wall[runner].append(time.perf_counter() - started)
                processor[runner].append(time.process_time() - used)
    cosines = [torch.cosine_similarity(a, b, dim=-1).min() for a, b in zip(ours, others, strict=True)]
    return {
        "milliseconds_per_picture": {run: round(min(t) / batch * 1000, 1) for run, t in wall.items()},
        "torch_over_onnxruntime": {
            "fastest round": round(min(wall["torch"]) / min(wall["onnxruntime"]), 2),
            "median processor time": round(
                median(processor["torch"]) / median(processor["onnxruntime"]), 2
            ),
        },
        "lowest_cosines": [round(cosine.item(), 7) for cosine in cosines],
    }


class NoText(TextEncoder):
    """Stands where only pictures are encoded."""

    def forward(self, texts: Sequence[str]) -> Any:
        raise NotImplementedError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load_before = os.getloadavg()[0]
    models = {name: measure(name, options.batch, options.rounds) for name in MODELS}
    # Above the number of cores: other work was running, and single times mean little.
    load = {"before": round(load_before, 1), "after": round(os.getloadavg()[0], 1)}
    found = {"onnxruntime": onnxruntime.__version__, "load_average": load, "models": models}
    keep("openclip_onnx", found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
