"""What a step is about, and the loss it takes: all pairs of a batch, however large, in bounded memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from xattn.losses import Chunked, Kind, PairLoss, Pairs, all_pairs_loss, exchange
from xattn.model import XAttnModel
from xattn.training import modes, parallel
from xattn.training.calibrate import fit_platt
from xattn.training.pictures import Picture
from xattn.training.sampling import Plan, Shuffled
from xattn.training.settings import Settings, tower_rate
from xattn.training.sources import Encoded, Pictures, Texts
from xattn.types import RegionGrid

SCALES = (5.0, 40.0)
"""Where the logits' scales may start."""
NUM_CROPS = 1 << 20
"""Of a picture, where they are made anew in every epoch."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B pictures, by row and view, and N captions; those of all processes."""

    rows: list[int]
    views: list[int]
    captions: list[str]
    positives: Bool[Tensor, "B N"]


class Batches:
    """Batch number i of epoch e is the same in every run with the same seed: nothing to remember.

    num_views: that a picture has; live: views from 2 on are new crops in every epoch; plan: which pictures
    make a batch, by chance unless given
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        settings: Settings,
        num_views: int,
        live: bool = False,
        plan: Plan | None = None,
    ) -> None:
        self.pictures = pictures
        self.settings = settings
        self.num_views, self.live = num_views, live
        self.plan = plan or Shuffled(len(pictures), settings.batch_size, settings.seed)
        self.per_epoch = self.plan.per_epoch

    def members(self, epoch: int, index: int) -> list[int]:
        """Which pictures."""
        return self.plan.members(epoch, index)

    def batch(self, epoch: int, index: int) -> Batch:
        members = self.members(epoch, index)
        rng = random.Random(f"{self.settings.seed}:{epoch}:{index}")
        views = [rng.randrange(self.num_views) for _ in members]
        if self.live:
            views = [view if view < 2 else rng.randrange(2, NUM_CROPS) for view in views]
        own = [self.pictures[i].captions for i in members]
        drawn = [rng.sample(some, min(self.settings.captions, len(some))) for some in own]
        # A caption that several pictures have is drawn once, and right for each of them.
        captions = list(dict.fromkeys(caption for some in drawn for caption in some))
        positives = torch.tensor([[caption in some for caption in captions] for some in map(set, own)])
        return Batch([self.pictures[i].row for i in members], views, captions, positives)


class Objective(nn.Module):
    """The model in training, and its loss; `log_scales` and `biases` are of the two terms.

    Towers stay in eval mode: statistics of batches as they were trained, no dropout, so that a picture
    may be encoded in any chunk. What head mode trains has its dropout.
    """

    def __init__(self, model: XAttnModel, pictures: Pictures, texts: Texts, settings: Settings) -> None:
        super().__init__()
        self.model = model
        self.pictures, self.settings = pictures, settings
        self._texts = texts
        self.log_scales = nn.Parameter(torch.full((2,), SCALES[0], device=model.device).log())
        self.biases = nn.Parameter(torch.zeros(2, device=model.device))
        # open_clip's models were trained at a scale of their own, up to 100.
        self.max_scale = max(settings.max_scale, model.calibration.logit_scale)
        self.kind = cast(Kind, settings.loss)
        self.biases.requires_grad_(self.kind == "sigmoid")
        self.precision = precision_of(settings, model.device)

    def train(self, mode: bool = True) -> Objective:
        self.training = mode
        self.model.eval()
        for module in modes.heads_of(self.model):
            module.train(mode)
        return self

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.model.device.type, self.precision)

    def images(self, items: Sequence[Any], source: Pictures | None = None) -> Encoded:
        """source: whose items they are; by default the pictures' that are trained on."""
        with self._autocast():
            regions, pooled, mask = (source or self.pictures).encode(items)
        return regions.float(), pooled.float(), mask

    def texts(self, captions: Sequence[str]) -> Tensor:
        with self._autocast():
            found = self._texts(captions)
        return found.float()

    def backward(self, batch: Batch, factor: float = 1.0) -> PairLoss:
        """Adds this process's part of the loss's gradient, times factor, to what is trained."""
        rows, columns = (parallel.part(count) for count in batch.positives.shape)
        items = self.pictures.load(batch.rows[rows], batch.views[rows])
        images = Chunked(self.images, self._chunks(items, len(batch.rows)))
        texts = Chunked(
            lambda some: (self.texts(some),), self._chunks(batch.captions[columns], len(batch.captions))
        )
        regions, pooled, mask = images.outputs
        positives = batch.positives[rows].to(regions.device)
        pairs = Pairs(regions, pooled, exchange(texts.outputs[0]), positives, mask)
        scales = self.log_scales.exp().clamp(max=self.max_scale)
        loss = all_pairs_loss(self.model.attention, pairs, scales, self.biases, kind=self.kind)
        (loss.total * factor).backward()
        images.backward()
        texts.backward()
        return loss

    def _chunks(self, things: Sequence[Any], total: int) -> list[Sequence[Any]]:
        """total: of all processes. In head mode nothing but small modules has activations: one chunk."""
        return parallel.pieces(
            things, total, total if self.settings.mode == "head" else self.settings.chunk
        )

    @torch.no_grad()
    def set_scales(self, batch: Batch) -> None:
        """Starts scales and biases where the model as it is matches best (Platt 1999), so that the first
        steps improve the model and do not repair the loss."""
        grid = RegionGrid.stack(list(self.pictures.grids(batch.rows)))
        texts = torch.cat([self.texts(some) for some in self._chunks(batch.captions, len(batch.captions))])
        attended = self.model.attention.cosine(grid.regions, texts, grid.mask)
        matched = batch.positives.numpy().ravel()
        if matched.all():
            return
        highest = max(SCALES[1], self.model.calibration.logit_scale)
        for term, cosine in enumerate((grid.pooled @ texts.T, attended)):
            values = cosine.cpu().double().numpy().ravel()
            scale, bias = fit_platt(values, matched, float(matched.mean()))
            self.log_scales[term] = torch.tensor(min(max(scale, SCALES[0]), highest)).log()
            if self.biases.requires_grad:
                self.biases[term] = bias

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the optimizer changes."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)


def precision_of(settings: Settings, device: torch.device) -> torch.dtype:
    """On a CPU half precision is slower than single, so that it has to be asked for."""
    if settings.precision == "auto":
        able = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if able and settings.mode != "head" else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.precision]


def optimizer_of(objective: Objective, settings: Settings) -> torch.optim.AdamW:
    """Weights decay; norms, biases and temperatures do not. Towers learn at a rate of their own, which
    each group keeps as `peak`."""
    heads = {id(p) for module in modes.heads_of(objective.model) for p in module.parameters()}
    heads |= {id(objective.log_scales), id(objective.biases)}
    named = list(objective.trained())

    def group(peak: float, decay: float, wanted: Callable[[nn.Parameter], bool]) -> dict[str, Any]:
        return {"params": [p for _, p in named if wanted(p)], "peak": peak, "weight_decay": decay}

    groups = [
        group(settings.learning_rate, settings.weight_decay, lambda p: id(p) in heads and p.ndim >= 2),
        group(settings.learning_rate, 0.0, lambda p: id(p) in heads and p.ndim < 2),
        group(tower_rate(settings), settings.weight_decay, lambda p: id(p) not in heads and p.ndim >= 2),
        group(tower_rate(settings), 0.0, lambda p: id(p) not in heads and p.ndim < 2),
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))
