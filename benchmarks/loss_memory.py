"""Time and peak memory of the contrastive loss against the batch: all pairs in tiles, all at once, sampled.

    python -m benchmarks.loss_memory

tiled, untiled: every picture × every caption, `xattn.losses.all_pairs_loss`. sampled: FLAIR's scheme
(Xiao et al. 2025, section 3.3), written here from its description: each picture meets its own captions and
one random caption of each other picture. All take the gradient of everything: one step's loss, forward
and backward, sigmoid form. --pictures takes the first so many pictures only, with the captions of all: the
share of one process among several, whose tiles are those of the whole batch. `flops` tells what the tiled
loss multiplies and adds, and what a training step of CLIP ViT-B/16 does beside it. Each case runs in a
process of its own; memory is the process's peak while the loss is taken, less what it held before: inputs,
weights and imports. `processor_seconds`, of all threads together, are the ones to take from a busy machine.
"""

from __future__ import annotations

import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import torch
import tyro
from torch import Tensor
from torch.nn import functional as F

from benchmarks.record import OtherPrograms, current_commit, keep
from xattn.attention import CrossAttention, attention_weights
from xattn.losses import Pairs, all_pairs_loss, sigmoid_pairs
from xattn.losses.pairs import TILE

SCHEMES = ("tiled", "untiled", "sampled")


def sampled_loss(attention: CrossAttention, pairs: Pairs, scales: Tensor, biases: Tensor) -> Tensor:
    """FLAIR's scheme. Text n belongs to picture n // K, K captions each; every pair counts."""
    num_pictures, num_texts = pairs.positives.shape
    per_picture = num_texts // num_pictures
    own = torch.arange(num_texts, device=pairs.texts.device).view(num_pictures, per_picture)
    others = torch.arange(num_pictures, device=own.device)
    others = others.expand(num_pictures, -1)[~torch.eye(num_pictures, dtype=torch.bool, device=own.device)]
    drawn = own[others, torch.randint(per_picture, others.shape, device=own.device)]
    rows = torch.cat([own, drawn.view(num_pictures, -1)], 1)  # [B, K + B - 1]

    query = attention.project_texts(pairs.texts)[rows]
    key, value = attention.project_regions(pairs.regions)
    logits = torch.einsum("bmkd,bkrd->bmkr", query, key)
    null_logits = torch.einsum("bmkd,kd->bmk", query, attention.null_key)
    mask = None if pairs.mask is None else pairs.mask[:, None, None]
    weights, null_weight = attention_weights(logits, mask, null_logits)
    read = torch.einsum("bmkr,bkrd->bmkd", weights, value) + null_weight[..., None] * attention.null_value
    output = F.normalize(attention.out(read.flatten(-2)), dim=-1)
    attended = scales[1] * torch.einsum("bmd,bmd->bm", output, pairs.texts[rows]) + biases[1]
    positives = pairs.positives.gather(1, rows)
    pooled = scales[0] * (pairs.pooled @ pairs.texts.T) + biases[0]
    # Divided as the exact one is: by the number of captions.
    signed = F.softplus(-(positives * 2.0 - 1) * attended).sum() / num_texts
    return sigmoid_pairs(pooled, pairs.positives) + signed


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured.

    Attributes:
        batches: numbers of pictures.
        captions: per picture.
        pictures: of the batch, with the captions of all; None: all.
        rounds: of which the median is shown.
        memory_mb: do not try what needs more.
        scheme: one case, in this process, with `batch` pictures.
    """

    batches: tuple[int, ...] = (16, 32, 64, 128, 256)
    captions: int = 4
    dim: int = 256
    heads: int = 4
    regions: int = 196
    tile: tuple[int, int] = TILE
    pictures: int | None = None
    rounds: int = 3
    device: str = "cpu"
    memory_mb: float = 4000
    scheme: Literal["untiled", "tiled", "sampled"] | None = None
    batch: int = 0


def case(options: Options) -> dict[str, float]:
    """One scheme at one batch size, in this process."""
    torch.manual_seed(0)
    batch, per_picture, dim = options.batch, options.captions, options.dim
    pictures = options.pictures or batch
    device = torch.device(options.device)
    attention = CrossAttention(dim, options.heads).to(device)
    regions = torch.randn(pictures, options.regions, dim, device=device, requires_grad=True)
    pooled = F.normalize(torch.randn(pictures, dim, device=device), dim=-1).requires_grad_()
    texts = F.normalize(torch.randn(batch * per_picture, dim, device=device), dim=-1).requires_grad_()
    owners = torch.arange(batch * per_picture, device=device) // per_picture
    positives = owners[None] == torch.arange(pictures, device=device)[:, None]
    pairs = Pairs(regions, pooled, texts, positives)
    scales = torch.full((2,), 10.0, device=device, requires_grad=True)
    biases = torch.full((2,), -5.0, device=device, requires_grad=True)

    losses: dict[str, Callable[[], Tensor]] = {
        "tiled": lambda: all_pairs_loss(attention, pairs, scales, biases, tile=options.tile).total,
        "untiled": lambda: all_pairs_loss(attention, pairs, scales, biases, tile=None).total,
        "sampled": lambda: sampled_loss(attention, pairs, scales, biases),
    }

    def step() -> None:
        for leaf in (regions, pooled, texts, scales, biases, *attention.parameters()):
            leaf.grad = None
        losses[options.scheme or "tiled"]().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    gc.collect()
    before = _held(device)
    seconds, of_processor = [], []
    for _ in range(options.rounds):
        started, began = time.perf_counter(), time.process_time()
        step()
        seconds.append(time.perf_counter() - started)
        of_processor.append(time.process_time() - began)
    pairs_taken = pictures * batch * per_picture
    if options.scheme == "sampled":
        pairs_taken = batch * (per_picture + batch - 1)
    return {
        "seconds": round(statistics.median(seconds), 4),
        "processor_seconds": round(statistics.median(of_processor), 4),
        "peak_mb": round((_peak(device) - before) / 1e6, 1),
        "pairs": pairs_taken,
    }


def _held(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    # The process may have held more than now while it imported; from here on only growth counts.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


VIT_FLOPS, TEXT_FLOPS = 3 * 35.2e9, 3 * 6.0e9
"""Forward and backward (twice as much) of CLIP ViT-B/16 on one picture of 224 pixels, and of its text tower
on one caption of 77 tokens; a multiplication and an addition are two."""


def flops(options: Options, batch: int) -> dict[str, float]:
    """Of the tiled loss over all pairs: two products with R regions forward and four backward, and one
    with the Gram matrix each way; the projections; and how many per cent of the towers' step that is."""
    regions, dim, texts = options.regions, options.dim, batch * options.captions
    pairs = batch * texts * 2 * dim * (6 * regions + 2 * dim)
    projections = 3 * 2 * dim * dim * (2 * batch * regions + 2 * texts)
    vision = batch * VIT_FLOPS
    return {
        "tflop": round((pairs + projections) / 1e12, 3),
        "percent_of_vision_step": round(100 * (pairs + projections) / vision, 1),
        "percent_of_both_towers_step": round(
            100 * (pairs + projections) / (vision + texts * TEXT_FLOPS), 1
        ),
    }


def needed_mb(scheme: str, options: Options, batch: int) -> float:
    """What autograd will hold, roughly: seven tensors the size of the attention."""
    texts = batch * options.captions if scheme == "untiled" else batch + options.captions - 1
    return 0 if scheme == "tiled" else 7 * batch * texts * options.heads * options.regions * 4 / 1e6


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.scheme:
        print(json.dumps(case(options)))
        return
    commit, others = current_commit(), OtherPrograms()
    rows = []
    for batch in options.batches:
        print(flops(options, batch), file=sys.stderr)
        for scheme in ("tiled",) if options.pictures else SCHEMES:
            needed = needed_mb(scheme, options, batch)
            row: dict[str, object] = {"scheme": scheme, "batch": batch}
            row |= flops(options, batch) if scheme == "tiled" else {}
            if needed > options.memory_mb:
                row["not_run"] = f"would hold about {needed:.0f} MB"
            else:
                command = [sys.executable, "-m", "benchmarks.loss_memory", *sys.argv[1:]]
                command += ["--scheme", scheme, "--batch", str(batch)]
                found = subprocess.run(command, capture_output=True, text=True, check=True)
                row |= json.loads(found.stdout)
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
    settings = {k: v for k, v in asdict(options).items() if k not in ("scheme", "batch", "batches")}
    name = "loss_memory" + ("" if options.device == "cpu" else f"_{options.device}")
    name += "_part" if options.pictures else ""
    record = {"other_programs": others.share(), "setting": settings, "figures": rows}
    keep(name, record, commit=commit, script="loss_memory")


if __name__ == "__main__":
    main()
