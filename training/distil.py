"""The pooled embedding and the text head, learned from teachers.

A pooled head over frozen towers trains in a minute, and heads that differ in nothing but their seed err
differently: the mean of their cosines ranks better than any one of them. The model gets one head that
copies this mean (Hinton et al. 2015), so the ensemble costs nothing when pictures are encoded. A copy can
be asked about anything, also where nobody knows the right answer: pictures here are mixtures of two, and
texts are drawn from the whole data set ("A good teacher is patient and consistent", Beyer et al. 2022).

Teachers learn from captions and from names of categories, which are as short as what people type. Some
of them train without a fold of the pictures each. What such a one says of its fold is what a pooled
embedding says of pictures it never saw, mistakes included, and from these the second stage learns to
correct the first (stacking: Wolpert 1992).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from training.batches import drawn_captions
from training.fit import OnStep, fit
from training.recipes import Recipe
from xattn.encoders.hybrid.fusion import FusionConfig, Pooling
from xattn.encoders.hybrid.text import TextHead
from xattn.errors import DataError
from xattn.losses import info_nce
from xattn.training.features import ViewFeatures
from xattn.training.gather import gather
from xattn.training.pictures import Picture

Summary = Mapping[str, Float[Tensor, "B W"]]
"""`Pooling.summary`: all that a pooled head sees of a picture."""

SUMMARISED_AT_ONCE = 96
WHOLE_SHARE = 0.5
"""Of the pictures that a copy is asked about, so many are no mixture."""


@dataclass(frozen=True, slots=True)
class Asked:
    """B pictures and what is asked about them.

    texts: rows of the text table; owners: text n belongs to picture owners[n], -1 to none
    names: rows of C names of categories; held: of which a picture holds one
    """

    summary: Summary
    texts: Int[Tensor, " N"]
    owners: Int[Tensor, " N"]
    names: Int[Tensor, " C"]
    held: Bool[Tensor, "B C"]

    @property
    def searched(self) -> Bool[Tensor, " B"]:
        """False for pictures of which it is not known what they hold."""
        return self.held.any(1)


@torch.inference_mode()
def summarise(
    pooling: Pooling, pictures: Sequence[Picture], features: Sequence[ViewFeatures], device: torch.device
) -> dict[str, Float[Tensor, "V N W"]]:
    """Summaries of all pictures in all views: small enough to be kept in memory, 21 kB each."""
    views = []
    for view in range(len(features)):
        parts = []
        for start in range(0, len(pictures), SUMMARISED_AT_ONCE):
            rows = [picture.row for picture in pictures[start : start + SUMMARISED_AT_ONCE]]
            given = gather(features, [view] * len(rows), rows, device)
            parts.append(pooling.summary(given.features, given.resample, given.mask))
        views.append({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
    return {name: torch.stack([view[name] for view in views]) for name in views[0]}


class SummarySampler:
    """Draws batches of summaries; the same seed and calls give the same batches.

    pictures: those to train on, in the order of `summaries`; text_rows: text → row of the table; fold: of
    pictures that are never drawn
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        summaries: Mapping[str, Float[Tensor, "V N W"]],
        text_rows: Mapping[str, int],
        recipe: Recipe,
        seed: int,
        fold: int | None = None,
    ) -> None:
        self.pictures = pictures
        self.drawn = [n for n, picture in enumerate(pictures) if picture.row % recipe.folds != fold]
        self.summaries = summaries
        self.text_rows = text_rows
        self.recipe = recipe
        self.rng = random.Random(seed)
        self.num_views = len(next(iter(summaries.values())))
        self.device = next(iter(summaries.values())).device
        categories = sorted(frozenset[str]().union(*(picture.categories for picture in pictures)))
        self.names = torch.tensor([text_rows[name] for name in categories], device=self.device).long()
        held = [[name in picture.categories for name in categories] for picture in pictures]
        self.held = torch.tensor(held, dtype=torch.bool, device=self.device)

    @property
    def steps_per_epoch(self) -> int:
        """Batches are full, unless all pictures together are fewer than one."""
        return max(1, len(self.drawn) // self.recipe.batch_size)

    def batches(self, epochs: int) -> Iterator[tuple[int, Asked]]:
        """(epoch, batch): pictures in random views with captions of theirs."""
        order = list(self.drawn)
        size = self.recipe.batch_size
        for epoch in range(1, epochs + 1):
            self.rng.shuffle(order)
            for step in range(self.steps_per_epoch):
                yield epoch, self._batch(order[step * size : (step + 1) * size])

    def mixed(self, epochs: int) -> Iterator[tuple[int, Asked]]:
        """The same, but half of the pictures are mixed with another, and texts of no picture are added."""
        every_row = sorted(self.text_rows.values())
        for epoch, asked in self.batches(epochs):
            size = len(asked.held)
            own = [1.0 if self.rng.random() < WHOLE_SHARE else self.rng.random() for _ in range(size)]
            share = torch.tensor(own, device=self.device)[:, None]
            other = self.rng.sample(range(size), size)
            summary = {name: torch.lerp(v[other], v, share) for name, v in asked.summary.items()}
            added = torch.tensor(self.rng.choices(every_row, k=self.recipe.added_texts), device=self.device)
            nobody = added.new_full(added.shape, -1)
            texts, owners = torch.cat([asked.texts, added]), torch.cat([asked.owners, nobody])
            yield epoch, replace(asked, summary=summary, texts=texts, owners=owners)

    def _batch(self, indices: Sequence[int]) -> Asked:
        views = [self.rng.randrange(self.num_views) for _ in indices]
        summary = {name: value[views, list(indices)] for name, value in self.summaries.items()}
        pictures = [self.pictures[index] for index in indices]
        rows, owners = drawn_captions(pictures, self.text_rows, self.recipe, self.rng)
        held = self.held[list(indices)]
        return Asked(summary, rows.to(self.device), owners.to(self.device), self.names, held)


class Teacher(nn.Module):
    """One pooled head with a text head of its own, for texts of which so many numbers are known."""

    def __init__(self, config: FusionConfig, text_width: int, recipe: Recipe) -> None:
        super().__init__()
        self.pooling = Pooling(config)
        self.head = TextHead(text_width, config.dim, config.dropout)
        # One temperature for captions, one for names, as its logarithm.
        self.log_scales = nn.Parameter(torch.full((2,), math.log(recipe.initial_scale)))
        self.max_scale = recipe.max_scale
        self.name_weight = recipe.name_weight

    def cosines(self, summary: Summary, texts: Float[Tensor, "N W"]) -> Float[Tensor, "B N"]:
        return self.pooling.embed(summary) @ self.head(texts).T

    def loss(self, asked: Asked, table: Float[Tensor, "M W"]) -> Float[Tensor, ""]:
        """InfoNCE over all pairs of pictures and captions, and of searched pictures and names."""
        scales = self.log_scales.exp().clamp(max=self.max_scale)
        cosines = self.cosines(asked.summary, table[torch.cat([asked.texts, asked.names])])
        captions, names = cosines.split([len(asked.texts), len(asked.names)], 1)
        matches = asked.owners == torch.arange(len(cosines), device=asked.owners.device)[:, None]
        named = info_nce(scales[1] * names[asked.searched], asked.held[asked.searched])
        return info_nce(scales[0] * captions, matches) + self.name_weight * named


class Teachers(nn.Module):
    """What they say together is the mean of their cosines. In eval mode, their weights frozen.

    Of `folds`, teacher k never saw the pictures of fold k: those whose row is k modulo `folds`. The others,
    behind them, saw all.
    """

    def __init__(self, teachers: Sequence[Teacher], folds: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(teachers)
        self.folds = folds
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def cosines(self, summary: Summary, texts: Float[Tensor, "N W"]) -> Float[Tensor, "B N"]:
        said = [member.cosines(summary, texts) for member in self.members]  # type: ignore[operator]
        return torch.stack(said).mean(0)

    @torch.no_grad()
    def unseeing(
        self, summary: Summary, texts: Float[Tensor, "N W"], picture_rows: Int[Tensor, " B"]
    ) -> Float[Tensor, "B N"]:
        """Of each picture the cosines that the teacher says who never saw it."""
        folds = picture_rows % self.folds
        said = torch.zeros(len(folds), len(texts), device=texts.device)
        for fold in folds.unique().tolist():
            rows = folds == fold
            own = {name: value[rows] for name, value in summary.items()}
            said[rows] = self.members[fold].cosines(own, texts)
        return said


def train_teachers(
    config: FusionConfig,
    pictures: Sequence[Picture],
    summaries: Mapping[str, Float[Tensor, "V N W"]],
    table: Float[Tensor, "M W"],
    text_rows: Mapping[str, int],
    recipe: Recipe,
    log: OnStep,
) -> Teachers:
    """As many as the recipe says. log: called with `teacher`, `step`, `epoch`, `steps`, `loss`.

    Raises DataError for fewer than two folds, as one would leave no picture, and if a loss is no longer a
    number.
    """
    if recipe.folds < 2:
        raise DataError(f"folds {recipe.folds}: expected at least 2, as each is left out by a teacher")
    trained = []
    for number in range(recipe.folds + recipe.whole_teachers):
        teacher = Teacher(config, table.shape[1], recipe).to(table.device).train()
        seed = recipe.seed + 1 + number
        fold = number if number < recipe.folds else None
        sampler = SummarySampler(pictures, summaries, text_rows, recipe, seed, fold)

        def measure(asked: Asked, teacher: Teacher = teacher) -> tuple[Tensor, dict[str, float]]:
            return teacher.loss(asked, table), {}

        fit(
            teacher,
            sampler.batches(recipe.teacher_epochs),
            recipe.teacher_epochs * sampler.steps_per_epoch,
            measure,
            recipe,
            lambda entry, number=number: log({"teacher": number + 1} | entry),  # type: ignore[misc]
        )
        trained.append(teacher)
    return Teachers(trained, recipe.folds)


def copy_loss(
    pooling: Pooling,
    head: TextHead,
    teachers: Teachers,
    asked: Asked,
    table: Float[Tensor, "M W"],
) -> Float[Tensor, ""]:
    """Mean square of the differences between all cosines of a copy and of its teachers."""
    texts = table[torch.cat([asked.texts, asked.names])]
    cosines = pooling.embed(asked.summary) @ head(texts).T
    return (cosines - teachers.cosines(asked.summary, texts)).square().mean()


def distil(
    pooling: Pooling,
    head: TextHead,
    teachers: Teachers,
    sampler: SummarySampler,
    table: Float[Tensor, "M W"],
    recipe: Recipe,
    log: OnStep,
) -> None:
    """Makes a pooled head and a text head a copy of the teachers, in place, and leaves them in eval mode.

    Nothing is dropped meanwhile: teachers cannot be learned by heart. log: called with `copy`, `step`,
    `epoch`, `steps`, `loss`. Raises DataError if the loss is no longer a number.
    """
    copy = nn.ModuleList([pooling, head]).to(table.device).eval()
    fit(
        copy,
        sampler.mixed(recipe.copy_epochs),
        recipe.copy_epochs * sampler.steps_per_epoch,
        lambda asked: (recipe.copy_weight * copy_loss(pooling, head, teachers, asked, table), {}),
        recipe,
        lambda entry: log({"copy": 1} | entry),
    )
