"""Exact all pairs or sampled ones: which trains the better model in the same time?

    python -m benchmarks.pairs --data coco_mix

Two models begin with the towers of --model and fresh heads, towers frozen and their features kept in
--cache, and see the same batches: photos with --captions captions each. One takes the loss over every
picture × every caption (`xattn.losses.all_pairs_loss`), the other FLAIR's scheme
(`benchmarks.loss_memory.sampled_loss`: own captions and one random caption of each other picture), both
in the sigmoid form. They train in turns, always the one that has used less time, until each has used
--minutes of one core: on a quiet machine that is wall time, on a busy one it is fairer. The learning
rate follows the time used. Searched at the end: split "dev", with a paired test over its photos.
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks.fresh_heads import give_fresh_heads
from benchmarks.loss_memory import sampled_loss
from benchmarks.record import RESULTS, Figure, OtherPrograms, Out, current_commit, keep, show
from xattn.attention import CrossAttention
from xattn.losses import Pairs, all_pairs_loss
from xattn.metrics import retrieval_ranks
from xattn.metrics.intervals import bootstrap_interval, paired_difference
from xattn.model import XAttnModel
from xattn.model.checkpoint import load_model
from xattn.training.default_towers import towers_of
from xattn.training.features import ViewFeatures, cached_features
from xattn.training.gather import gather, text_table
from xattn.training.pictures import Dataset, Picture, read_dataset

Loss = Callable[[CrossAttention, Pairs, Tensor, Tensor], Tensor]
EXACT, SAMPLED = "all pairs", "sampled"
LOSSES: Mapping[str, Loss] = {
    EXACT: lambda attention, pairs, scales, biases: all_pairs_loss(attention, pairs, scales, biases).total,
    SAMPLED: sampled_loss,
}
FIRST_SCALE, FIRST_BIAS = 10.0, -10.0
"""SigLIP's."""
WARMUP = 0.1
"""Of the time."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Numbers of both runs. pooled_weight: β of the score that searches at the end"""

    batch_size: int = 96
    learning_rate: float = 1e-3
    weight_decay: float = 0.2
    pooled_weight: float = 0.8
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Photos:
    """Of one split, all with captions. table: sentence features; rows: caption → row of the table"""

    pictures: Sequence[Picture]
    features: Sequence[ViewFeatures]
    table: Float[Tensor, "N W"]
    rows: Mapping[str, int]

    def encoded(self, model: XAttnModel, pictures: Sequence[Picture]) -> tuple[Tensor, Tensor, Tensor]:
        """(regions, pooled, mask) of whole pictures."""
        vision, _ = towers_of(model)
        rows = [picture.row for picture in pictures]
        given = gather(self.features, [0] * len(rows), rows, model.device)
        return *given.fused(vision.fusion), given.mask

    def texts(self, model: XAttnModel, captions: Sequence[str]) -> Tensor:
        return towers_of(model)[1].head(self.table[[self.rows[caption] for caption in captions]])


@dataclass(slots=True)
class Contender:
    """A model in training by one loss. spent: seconds of the processor; wall: of the clock"""

    loss: Loss
    model: XAttnModel
    recipe: Recipe
    spent: float = 0.0
    wall: float = 0.0
    steps: int = 0
    scales: nn.Parameter = field(init=False)
    biases: nn.Parameter = field(init=False)
    optimizer: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        vision, text = towers_of(self.model)
        self.scales = nn.Parameter(torch.full((2,), FIRST_SCALE).log())
        self.biases = nn.Parameter(torch.full((2,), FIRST_BIAS))
        self.model.requires_grad_(False)
        heads = nn.ModuleList([vision.fusion, text.head, self.model.attention])
        weights = list(heads.requires_grad_().train().parameters())
        groups = [
            {"params": [p for p in weights if p.ndim >= 2], "weight_decay": self.recipe.weight_decay},
            {
                "params": [p for p in weights if p.ndim < 2] + [self.scales, self.biases],
                "weight_decay": 0.0,
            },
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=self.recipe.learning_rate, betas=(0.9, 0.98))

    def step(self, photos: Photos, num_captions: int, budget: float) -> None:
        """One batch, the same for every contender that has made as many steps."""
        began, began_wall = time.process_time(), time.perf_counter()
        rng = random.Random(f"{self.recipe.seed}:{self.steps}")
        torch.manual_seed(self.steps)
        pictures = rng.sample(list(photos.pictures), min(self.recipe.batch_size, len(photos.pictures)))
        captions = [caption for p in pictures for caption in rng.sample(p.captions, num_captions)]
        owners = torch.arange(len(captions)) // num_captions
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * rate(self.spent / budget)
        regions, pooled, mask = photos.encoded(self.model, pictures)
        positives = owners[None] == torch.arange(len(pictures))[:, None]
        pairs = Pairs(regions, pooled, photos.texts(self.model, captions), positives, mask)
        loss = self.loss(self.model.attention, pairs, self.scales.exp(), self.biases)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 1.0)
        self.optimizer.step()
        self.steps += 1
        self.spent += time.process_time() - began
        self.wall += time.perf_counter() - began_wall


def rate(share: float) -> float:
    """Of the learning rate, when this share of the time is used: a linear rise times half a cosine."""
    return min(1.0, (share + 0.01) / WARMUP) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


@torch.inference_mode()
def found_first(model: XAttnModel, photos: Photos, recipe: Recipe) -> Iterator[tuple[int, bool]]:
    """(photo, whether it comes first) for each caption, by the score of both stages."""
    model.eval()
    owned = [(i, caption) for i, picture in enumerate(photos.pictures) for caption in picture.captions]
    owners = np.array([owner for owner, _ in owned])
    texts = photos.texts(model, [caption for _, caption in owned])
    scores = []
    for start in range(0, len(photos.pictures), 16):
        regions, pooled, mask = photos.encoded(model, photos.pictures[start : start + 16])
        attended = model.attention.cosine(regions, texts, mask)
        scores.append(recipe.pooled_weight * (pooled @ texts.T) + (1 - recipe.pooled_weight) * attended)
    ranks = retrieval_ranks(torch.cat(scores).numpy(), owners).text_to_image
    return zip(owners.tolist(), (ranks == 1).tolist(), strict=True)


@dataclass(frozen=True, slots=True)
class Options:
    """What is compared: see the options of `main`."""

    data: Path
    minutes: float
    captions: int
    pictures: int | None
    model: str


def read(options: Options, recipe: Recipe, cache: Path) -> tuple[XAttnModel, tuple[Photos, Photos]]:
    """The model that all start from, and the photos to train on and to search."""
    splits = [read_dataset(options.data, name) for name in ("train", "dev")]
    splits = [_captioned(dataset, options.captions, options.pictures) for dataset in splits]
    torch.manual_seed(recipe.seed)
    model = load_model(options.model, device="cpu")
    vision, text = towers_of(model)
    captions = sorted({caption for s in splits for picture in s.pictures for caption in picture.captions})
    table = text_table(text, captions).clone()  # made without gradients, used with them
    rows = {caption: row for row, caption in enumerate(captions)}
    learned = [rows[caption] for picture in splits[0].pictures for caption in picture.captions]
    give_fresh_heads(model, table[learned])
    features = [cached_features(vision, dataset, 1, cache) for dataset in splits]
    train, dev = (Photos(s.pictures, f, table, rows) for s, f in zip(splits, features, strict=True))
    return model, (train, dev)


def _captioned(dataset: Dataset, num_captions: int, most: int | None) -> Dataset:
    """The photos with so many captions; the features of the others need not be computed."""
    found = tuple(picture for picture in dataset.pictures if len(picture.captions) >= num_captions)
    return replace(dataset, pictures=found[:most])


def compare(options: Options, recipe: Recipe, cache: Path) -> list[Figure]:
    start, (train, dev) = read(options, recipe, cache)
    contenders = {name: Contender(loss, copy.deepcopy(start), recipe) for name, loss in LOSSES.items()}
    budget = 60 * options.minutes
    while (behind := min(contenders.values(), key=lambda c: c.spent)).spent < budget:
        behind.step(train, options.captions, budget)
    right: dict[str, np.ndarray] = {}
    models = {"start": start, **{name: contender.model for name, contender in contenders.items()}}
    for name, model in models.items():
        owners, firsts = zip(*found_first(model, dev, recipe), strict=True)
        right[name] = np.array(firsts, dtype=float)
    photos = np.array(owners)
    figures = []
    for name, contender in contenders.items():
        figures += [
            Figure(f"{name}: steps", contender.steps),
            Figure(f"{name}: processor time", contender.spent / 60, "min"),
            Figure(f"{name}: time of the clock", contender.wall / 60, "min"),
        ]
    for name, shares in right.items():
        value, low, high = (100 * share for share in bootstrap_interval(shares, photos))
        figures += [
            Figure(f"{name}: dev recall@1", value, "%"),
            Figure(f"{name}: dev recall@1, low end of 95 %", low, "%"),
            Figure(f"{name}: dev recall@1, high end of 95 %", high, "%"),
        ]
    better = paired_difference(right[EXACT], right[SAMPLED], photos)
    ends = ("", ", low end of 95 %", ", high end of 95 %")
    return [
        *figures,
        *(
            Figure(f"{EXACT} less {SAMPLED}{e}", 100 * v, "points")
            for e, v in zip(ends, better, strict=False)
        ),
        Figure(f"p of {EXACT} and {SAMPLED} being alike", better.p_value),
    ]


app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def main(
    data: Annotated[Path, typer.Option(metavar="DIR", help="With a records.jsonl.")],
    cache: Annotated[Path | None, typer.Option(help="Of features; by default DATA/features.")] = None,
    minutes: Annotated[float, typer.Option(help="Of one core, for each.")] = 5.0,
    captions: Annotated[int, typer.Option(help="Of each picture in a step.")] = 4,
    pictures: Annotated[int | None, typer.Option(metavar="N", help="The first N of each split.")] = None,
    batch_size: int = 96,
    model: Annotated[str, typer.Option(help="Whose towers are used.")] = "default",
    seed: int = 0,
    smoke: Annotated[bool, typer.Option("--smoke", help="A few steps.")] = False,
    out: Out = RESULTS,
) -> None:
    torch.set_num_threads(1)
    recipe = Recipe(batch_size=batch_size, seed=seed)
    options = Options(data, 0.02 if smoke else minutes, captions, pictures, model)
    out.mkdir(parents=True, exist_ok=True)
    at, others = current_commit(), OtherPrograms()
    figures = compare(options, recipe, cache or data / "features")
    busy = others.share()
    setting = {"captions": captions, "pictures": pictures, "batch_size": batch_size, "seed": seed}
    measured = [figure.as_json() for figure in figures]
    keep("pairs", {"other_programs": busy, "setting": setting, "figures": measured}, out, at)
    show("pairs", figures, busy)


if __name__ == "__main__":
    app()
