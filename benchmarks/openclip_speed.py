"""The ways to run the vision towers: time per picture of OpenCLIP's towers and the default model's nets.

    python -m benchmarks.openclip_speed [--device cuda] [--models NAME]... [--batch N] [--threads N]

    eager           torch in float32: what runs unless something else is asked for
    channels-last   the same with weights and pictures in that layout
    bf16, fp16      by autocast, as the option precision of a model's name does it
    compiled        by torch.compile; its first call, which compiles, is timed by itself, and is short where
                    torch has kept the code on the disk since an earlier run, as before the committed result
    bf16 compiled   both
    onnxruntime     the exported graph; on a CPU

Weights are random: time does not depend on them. All run in the same process with the same number of
threads, in turns. What is timed is what a graph stands in for: the whole tower of OpenCLIP's models, with
the default dense method; the two nets of the default model, whose fusion stays in torch. Whether a way
agrees with eager is told by the lowest cosine of each output. Where other work runs beside it, several
threads wait for each other and torch's wait longer, which flatters ONNX Runtime: then use --threads 1. The
fastest round counts, as the one least disturbed. Writes benchmarks/results/openclip_speed.json, or
openclip_speed_cuda.json.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import onnxruntime
import open_clip
import torch
import typer
from open_clip.transform import PreprocessCfg
from PIL import Image
from torch import Tensor

from benchmarks.record import keep
from benchmarks.timing import in_turns
from xattn import load_model
from xattn.encoders import TextEncoder, VisionEncoder
from xattn.encoders.onnx.graphs import parts
from xattn.encoders.onnx.runtime import Graph, export_function
from xattn.encoders.openclip.model import OpenClipVision, RegionConfig
from xattn.encoders.openclip.names import build_clip

MODELS = ("ViT-B-32", "ViT-B-16", "RN50", "convnext_base", "default")
Run = Callable[[], tuple[Tensor, ...]]


def vision_of(name: str) -> VisionEncoder:
    if name == "default":
        return load_model("default", device="cpu").vision
    torch.manual_seed(0)
    config = open_clip.get_model_config(name)
    visual = build_clip(config).get_submodule("visual")
    return OpenClipVision(visual, config, asdict(PreprocessCfg()), RegionConfig()).eval()


def inputs_of(vision: VisionEncoder, batch: int) -> tuple[Tensor, ...]:
    if isinstance(vision, OpenClipVision):
        side = vision.model_config["vision_cfg"]["image_size"]
        return (torch.randn(batch, 3, side, side),)
    frames = [vision.preprocess(Image.effect_noise((640, 480), 90).convert("RGB")) for _ in range(batch)]
    return tuple(torch.stack(views) for views in zip(*frames, strict=True))


def ways(vision: VisionEncoder, inputs: tuple[Tensor, ...], folder: Path, device: str) -> dict[str, Run]:
    """Everything that can be timed on this device."""
    (part, *_) = parts(vision, NoText())
    on_cpu = device == "cpu"
    if on_cpu:  # before the towers are moved and copied
        path = folder / part.file
        export_function(getattr(vision, part.method), vision, part.sample(), path)
        graph = Graph(path, vision)
    vision = vision.to(device)
    function = getattr(vision, part.method)
    inputs = tuple(value.to(device) for value in inputs)
    last = deepcopy(vision).to(memory_format=torch.channels_last)
    last_inputs = tuple(value.contiguous(memory_format=torch.channels_last) for value in inputs)
    compiled = torch.compile(function)

    def run(call: Callable[..., Any], values: tuple[Tensor, ...], dtype: torch.dtype | None = None) -> Run:
        def once() -> tuple[Tensor, ...]:
            with nullcontext() if dtype is None else torch.autocast(device, dtype):
                found = call(*values)
            if not on_cpu:
                torch.cuda.synchronize()
            return found

        return once

    found = {
        "eager": run(function, inputs),
        "channels-last": run(getattr(last, part.method), last_inputs),
        "bf16": run(function, inputs, torch.bfloat16),
        "compiled": run(compiled, inputs),
        "bf16 compiled": run(compiled, inputs, torch.bfloat16),
    }
    if on_cpu:
        return found | {"onnxruntime": run(graph, inputs)}
    return found | {"fp16": run(function, inputs, torch.float16)}


def measure(name: str, device: str, batch: int, rounds: int) -> dict[str, Any]:
    vision = vision_of(name)
    inputs = inputs_of(vision, batch)
    with TemporaryDirectory() as folder:
        runs = ways(vision, inputs, Path(folder), device)
        with torch.inference_mode():
            first: dict[str, float] = {}
            cosines: dict[str, list[float]] = {}
            expected = runs["eager"]()
            for way, run in runs.items():
                started = time.perf_counter()
                outputs = run()
                first[way] = time.perf_counter() - started
                near = [
                    torch.cosine_similarity(a.float(), b.float(), dim=-1).min().item()
                    for a, b in zip(expected, outputs, strict=True)
                ]
                cosines[way] = [round(value, 7) for value in near]
            seconds = {way: times.min() for way, times in in_turns(runs, rounds).items()}
    return {
        way: {
            "milliseconds_per_picture": round(seconds[way] / batch * 1000, 2),
            "times_as_fast_as_eager": round(seconds["eager"] / seconds[way], 2),
            "lowest_cosines": cosines[way],
        }
        | ({"seconds_to_compile": round(first[way], 1)} if "compiled" in way else {})
        for way in runs
    }


class NoText(TextEncoder):
    """Stands where only pictures are encoded."""

    def forward(self, texts: Sequence[str]) -> Any:
        raise NotImplementedError


app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def main(
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    models: Annotated[list[str] | None, typer.Option(help="One of those listed; all if not given.")] = None,
    rounds: int = 7,
    batch: Annotated[int, typer.Option(help="On a GPU, 64 or more.")] = 4,
    threads: Annotated[int | None, typer.Option(help="As many as torch takes, if not given.")] = None,
) -> None:
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(f"{device!r} is neither cpu nor cuda", param_hint="--device")
    if unknown := set(models or ()) - set(MODELS):
        raise typer.BadParameter(f"{unknown} are none of {', '.join(MODELS)}", param_hint="--models")
    torch.set_num_threads(threads or torch.get_num_threads())
    load_before = os.getloadavg()[0]
    measured = {name: measure(name, device, batch, rounds) for name in models or MODELS}
    # Above the number of cores: other work was running, and single times mean little.
    load = {"before": round(load_before, 1), "after": round(os.getloadavg()[0], 1)}
    found = {"onnxruntime": onnxruntime.__version__, "load_average": load, "models": measured}
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    script = "openclip_speed"
    keep(script + "_cuda" * (device == "cuda"), found, script=script)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    app()
