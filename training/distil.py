"""The pooled embedding and the text head, learned from teachers.

A pooled head over frozen towers trains in a minute, and heads that differ in nothing but their seed err
differently: the mean of their cosines ranks better than any one of them. The model gets one head that
copies this mean (Hinton et al. 2015), so the ensemble costs nothing when pictures are encoded. A copy can
be asked about anything, also where nobody knows the right answer: pictures here are mixtures of two, and
texts are drawn from the whole data set ("A good teacher is patient and consistent", Beyer et al. 2022).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from training.batches import drawn_captions, gather
from training.data import Picture
from training.features import ViewFeatures
from training.fit import OnStep, fit
from training.recipes import Recipe
from xattn.encoders.fusion import FusionConfig, Pooling
from xattn.encoders.text import TextHead
from xattn.losses import info_nce

Summary = Mapping[str, Float[Tensor, "B W"]]
"""`Pooling.summary`: all that a pooled head sees of a picture."""

SUMMARISED_AT_ONCE = 96
WHOLE_SHARE = 0.5
"""Of the pictures that a copy is asked about, so many are no mixture."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Summaries of B pictures; rows of N texts; owners: text n belongs to picture owners[n], -1 to none."""

    summary: Summary
    texts: Int[Tensor, " N"]
    owners: Int[Tensor, " N"]


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

    pictures: those to train on, in the order of `summaries`; text_rows: text → row of the table
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        summaries: Mapping[str, Float[Tensor, "V N W"]],
        text_rows: Mapping[str, int],
        recipe: Recipe,
        seed: int,
    ) -> None:
        self.pictures = pictures
        self.summaries = summaries
        self.text_rows = text_rows
        self.recipe = recipe
        self.rng = random.Random(seed)
        self.num_views = len(next(iter(summaries.values())))
        self.device = next(iter(summaries.values())).device

    @property
    def steps_per_epoch(self) -> int:
        return len(self.pictures) // self.recipe.batch_size

    def batches(self, epochs: int) -> Iterator[tuple[int, Asked]]:
        """(epoch, batch): pictures in random views with captions of theirs."""
        order = list(range(len(self.pictures)))
        size = self.recipe.batch_size
        for epoch in range(1, epochs + 1):
            self.rng.shuffle(order)
            for step in range(self.steps_per_epoch):
                yield epoch, self._batch(order[step * size : (step + 1) * size])

    def mixed(self, epochs: int) -> Iterator[tuple[int, Asked]]:
        """The same, but half of the pictures are mixed with another, and texts of no picture are added."""
        every_row = sorted(self.text_rows.values())
        for epoch, asked in self.batches(epochs):
            size = self.recipe.batch_size
            own = [1.0 if self.rng.random() < WHOLE_SHARE else self.rng.random() for _ in range(size)]
            share = torch.tensor(own, device=self.device)[:, None]
            other = self.rng.sample(range(size), size)
            summary = {name: torch.lerp(v[other], v, share) for name, v in asked.summary.items()}
            added = torch.tensor(self.rng.choices(every_row, k=self.recipe.added_texts), device=self.device)
            nobody = added.new_full(added.shape, -1)
            yield (
                epoch,
                Asked(summary, torch.cat([asked.texts, added]), torch.cat([asked.owners, nobody])),
            )

    def _batch(self, indices: Sequence[int]) -> Asked:
        views = [self.rng.randrange(self.num_views) for _ in indices]
        summary = {name: value[views, list(indices)] for name, value in self.summaries.items()}
        pictures = [self.pictures[index] for index in indices]
        rows, owners = drawn_captions(pictures, self.text_rows, self.recipe.captions, self.rng)
        return Asked(summary, rows.to(self.device), owners.to(self.device))


class Teacher(nn.Module):
    """One pooled head with a text head of its own."""

    def __init__(self, config: FusionConfig, recipe: Recipe) -> None:
        super().__init__()
        self.pooling = Pooling(config)
        self.head = TextHead(config.text_width, config.dim, config.dropout)
        self.log_scale = nn.Parameter(torch.tensor(math.log(recipe.initial_scale)))
        self.max_scale = recipe.max_scale

    def cosines(self, summary: Summary, texts: Float[Tensor, "N W"]) -> Float[Tensor, "B N"]:
        return self.pooling.embed(summary) @ self.head(texts).T

    def loss(self, asked: Asked, table: Float[Tensor, "M W"]) -> Float[Tensor, ""]:
        """InfoNCE over all pairs."""
        cosines = self.cosines(asked.summary, table[asked.texts])
        matches = asked.owners == torch.arange(len(cosines), device=asked.owners.device)[:, None]
        return info_nce(self.log_scale.exp().clamp(max=self.max_scale) * cosines, matches)


class Teachers(nn.Module):
    """What they say together is the mean of their cosines. In eval mode, their weights frozen."""

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        super().__init__()
        self.members = nn.ModuleList(teachers)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def cosines(self, summary: Summary, texts: Float[Tensor, "N W"]) -> Float[Tensor, "B N"]:
        said = [member.cosines(summary, texts) for member in self.members]  # type: ignore[operator]
        return torch.stack(said).mean(0)


def train_teachers(
    config: FusionConfig,
    pictures: Sequence[Picture],
    summaries: Mapping[str, Float[Tensor, "V N W"]],
    table: Float[Tensor, "M W"],
    text_rows: Mapping[str, int],
    recipe: Recipe,
    log: OnStep,
) -> Teachers:
    """`recipe.teachers` of them. log: called with `teacher`, `step`, `epoch`, `steps`, `loss`.

    Raises DataError if a loss is no longer a number.
    """
    trained = []
    for number in range(recipe.teachers):
        teacher = Teacher(config, recipe).to(table.device).train()
        sampler = SummarySampler(pictures, summaries, text_rows, recipe, recipe.seed + 1 + number)

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
    return Teachers(trained)


def copy_loss(
    pooling: Pooling,
    head: TextHead,
    teachers: Teachers,
    asked: Asked,
    table: Float[Tensor, "M W"],
) -> Float[Tensor, ""]:
    """Mean square of the differences between all cosines of a copy and of its teachers."""
    texts = table[asked.texts]
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
