"""ONNX Runtime against torch: time per picture of open_clip's towers, and whether they agree.

    python -m benchmarks.openclip_onnx [--rounds N] [--batch N] [--threads N]

Weights are random: time does not depend on them. Both run in the same process with the same number of
threads, in turn. What is timed is `Tower.encode` with the default dense method, which gives regions and
pooled features. Where other work runs beside it, several threads wait for each other and torch's wait
longer, which flatters ONNX Runtime: then use --threads 1. The fastest round counts, as the one least
disturbed, and the time of the processor is given too. Writes benchmarks/results/openclip_onnx.json.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime
import open_clip
import torch

from benchmarks.record import keep
from xattn.encoders.onnx import OnnxTower, export_tower
from xattn.encoders.openclip import tower_of
from xattn.encoders.openclip_models import build_clip

ARCHITECTURES = ("ViT-B-32", "ViT-B-16")


def measure(arch: str, batch: int, rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    tower = tower_of(build_clip(open_clip.get_model_config(arch)).eval().get_submodule("visual"))
    method = tower.methods[0]
    pixels = torch.randn(batch, 3, *tower.native)
    with TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder, "vision.onnx")
        with torch.inference_mode(False):
            export_tower(tower, method, path)
        graph = OnnxTower(path, tower)
        runs: dict[str, Callable[[], Any]] = {
            "torch": lambda: tower.encode(pixels, method),
            "onnxruntime": lambda: graph.encode(pixels),
        }
        (regions, pooled), (other_regions, other_pooled) = (run() for run in runs.values())
        wall: dict[str, list[float]] = {name: [] for name in runs}
        processor: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                started, used = time.perf_counter(), time.process_time()
                run()
                wall[name].append(time.perf_counter() - started)
                processor[name].append(time.process_time() - used)
    return {
        "milliseconds_per_picture": {name: round(min(t) / batch * 1000, 1) for name, t in wall.items()},
        "torch_over_onnxruntime": {
            "fastest round": round(min(wall["torch"]) / min(wall["onnxruntime"]), 2),
            "median processor time": round(
                median(processor["torch"]) / median(processor["onnxruntime"]), 2
            ),
        },
        "lowest_cosine_pooled": torch.cosine_similarity(pooled, other_pooled, dim=-1).min().item(),
        "lowest_cosine_regions": torch.cosine_similarity(regions, other_regions, dim=-1).min().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load_before = os.getloadavg()[0]
    models = {arch: measure(arch, options.batch, options.rounds) for arch in ARCHITECTURES}
    # Above the number of cores: other work was running, and single times mean little.
    load = {"before": round(load_before, 1), "after": round(os.getloadavg()[0], 1)}
    found = {"onnxruntime": onnxruntime.__version__, "load_average": load, "models": models}
    keep("openclip_onnx", found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
