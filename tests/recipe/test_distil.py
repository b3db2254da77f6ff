"""Teachers of the pooled embedding, and the one head that copies their mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training.distil import SummarySampler, Teacher, Teachers, copy_loss, distil, train_teachers
from training.recipes import default
from xattn.encoders.hybrid.fusion import FusionConfig, Pooling, TowerFeatures
from xattn.encoders.hybrid.text import TextHead
from xattn.errors import DataError
from xattn.losses import info_nce
from xattn.training.pictures import Picture

CONFIG = FusionConfig(
    dim=16, conv_width=12, texture_width=5, vit_width=8, text_width=10, num_classes=4, dropout=0.2
)
RECIPE = replace(
    default(smoke=True), dim=16, batch_size=6, folds=3, whole_teachers=1, captions=1, added_texts=4
)
NAMES = ("cat", "dog", "sun")


def held_by(i: int) -> frozenset[str]:
    """Of the thirteen pictures the last three were never searched for anything."""
    return frozenset({NAMES[i % 3], "sun"}) if i < 10 else frozenset()


PICTURES = [Picture(i, i, Path("none"), (f"caption {i}",), {}, held_by(i)) for i in range(13)]
TEXT_ROWS = {f"caption {i}": i for i in range(13)} | {f"phrase {i}": 13 + i for i in range(17)}
TEXT_ROWS |= {name: 30 + n for n, name in enumerate(NAMES)}
RESAMPLE = torch.eye(4)[None]


def features(count: int) -> TowerFeatures:
    return TowerFeatures(
        cells=torch.rand(count, 4, 12),
        textures=torch.rand(count, 4, 5),
        tokens=torch.randn(count, 5, 8),
        early=torch.randn(count, 5, 8),
        prior=torch.randn(count, 5, 10) / 4,
        colors=torch.rand(count, 4, 6),
    )


@pytest.fixture
def summaries() -> dict[str, Tensor]:
    """Two views of each picture, alike."""
    torch.manual_seed(1)
    resample = RESAMPLE.expand(13, -1, -1)
    first = Pooling(CONFIG).summary(features(13), resample, None)
    return {name: torch.stack([v, v + 0.05 * torch.randn_like(v)]) for name, v in first.items()}


@pytest.fixture
def table() -> Tensor:
    torch.manual_seed(2)
    return torch.nn.functional.normalize(torch.randn(33, 10), dim=-1)


def test_pooling_is_embed_of_summary() -> None:
    torch.manual_seed(0)
    pooling, given = Pooling(CONFIG).eval(), features(3)
    resample = RESAMPLE.expand(3, -1, -1)
    expected = pooling(given, resample)
    torch.testing.assert_close(pooling.embed(pooling.summary(given, resample, None)), expected)


def test_batches_have_each_picture_with_its_own_captions(summaries: dict[str, Tensor]) -> None:
    sampler = SummarySampler(PICTURES, summaries, TEXT_ROWS, RECIPE, seed=5)
    seen = []
    for epoch, asked in sampler.batches(2):
        assert epoch in (1, 2)
        assert asked.owners.tolist() == list(range(6))
        for b, row in enumerate(asked.texts.tolist()):
            views = summaries["cells"][:, row]
            assert (asked.summary["cells"][b] == views).all(1).any(), "another picture than the caption's"
            assert asked.searched[b] == (row < 10)
            assert {NAMES[c] for c in asked.held[b].nonzero()[:, 0].tolist()} == held_by(row)
        assert asked.names.tolist() == [30, 31, 32]
        seen += asked.texts.tolist()
    assert len(seen) == 2 * 2 * 6
    assert len(set(seen[:12])) == 12
    again = SummarySampler(PICTURES, summaries, TEXT_ROWS, RECIPE, seed=5)
    assert [row for _, asked in again.batches(2) for row in asked.texts.tolist()] == seen


def test_a_fold_is_never_drawn(summaries: dict[str, Tensor]) -> None:
    sampler = SummarySampler(PICTURES, summaries, TEXT_ROWS, RECIPE, seed=5, fold=1)
    seen = {row for _, asked in sampler.batches(20) for row in asked.texts.tolist()}
    assert seen == {row for row in range(13) if row % 3 != 1}


def test_mixtures_lie_between_two_pictures_of_the_batch(summaries: dict[str, Tensor]) -> None:
    def sampler() -> SummarySampler:
        return SummarySampler(PICTURES, summaries, TEXT_ROWS, RECIPE, seed=5)

    (_, asked), (_, plain) = next(sampler().mixed(1)), next(sampler().batches(1))
    assert asked.owners.tolist() == [*range(6), -1, -1, -1, -1]
    assert asked.texts[:6].tolist() == plain.texts.tolist()
    found, pure = (torch.cat(list(batch.summary.values()), 1) for batch in (asked, plain))
    assert 0 < (found != pure).any(1).sum() < 6
    for b in range(6):
        # Its place on the line from each picture to its own, and how far it is off that line.
        lines, offsets = pure[b] - pure, found[b] - pure
        place = (offsets * lines).sum(1) / lines.square().sum(1).clamp(min=1e-9)
        off = (offsets - place[:, None] * lines).norm(dim=1)
        assert ((off < 1e-4) & (place >= 0) & (place <= 1 + 1e-5)).any()


def test_teachers_say_the_mean_of_what_each_says(summaries: dict[str, Tensor], table: Tensor) -> None:
    torch.manual_seed(3)
    members = [Teacher(CONFIG, 10, RECIPE) for _ in range(3)]
    teachers = Teachers(members, 3)
    summary = {name: value[0] for name, value in summaries.items()}
    expected = (sum(m.cosines(summary, table) for m in members) / 3).detach()  # type: ignore[union-attr]
    torch.testing.assert_close(teachers.cosines(summary, table), expected)
    assert not any(p.requires_grad for p in teachers.parameters())


def test_of_each_picture_the_teacher_is_asked_who_never_saw_it(
    summaries: dict[str, Tensor], table: Tensor
) -> None:
    torch.manual_seed(3)
    teachers = Teachers([Teacher(CONFIG, 10, RECIPE) for _ in range(5)], 3)
    rows = [7, 5, 6, 1]
    summary = {name: value[0][rows] for name, value in summaries.items()}
    found = teachers.unseeing(summary, table, torch.tensor(rows))
    for b, fold in enumerate((1, 2, 0, 1)):
        said = teachers.members[fold].cosines(summary, table)[b]  # type: ignore[operator]
        torch.testing.assert_close(found[b], said.detach())


def test_one_fold_is_refused(summaries: dict[str, Tensor], table: Tensor) -> None:
    with pytest.raises(DataError, match=r"folds 1.*at least 2"):
        train_teachers(
            CONFIG, PICTURES, summaries, table, TEXT_ROWS, replace(RECIPE, folds=1), lambda e: None
        )


def test_names_are_learned_on_searched_pictures_alone(summaries: dict[str, Tensor], table: Tensor) -> None:
    torch.manual_seed(6)
    teacher = Teacher(CONFIG, 10, RECIPE).eval()
    asked = next(SummarySampler(PICTURES, summaries, TEXT_ROWS, RECIPE, seed=5).batches(1))[1]
    searched = asked.searched
    assert 0 < int(searched.sum()) < 6
    scales = teacher.log_scales.exp()
    cosines = teacher.cosines(asked.summary, table)
    own = torch.eye(6, dtype=torch.bool)
    names = info_nce(scales[1] * cosines[searched][:, asked.names], asked.held[searched])
    expected = info_nce(scales[0] * cosines[:, asked.texts], own) + RECIPE.name_weight * names
    torch.testing.assert_close(teacher.loss(asked, table), expected)


def test_teachers_learn_their_pictures_and_the_copy_learns_the_teachers(
    summaries: dict[str, Tensor], table: Tensor
) -> None:
    torch.manual_seed(4)
    recipe = replace(RECIPE, teacher_epochs=40, copy_epochs=150, learning_rate=3e-3, averaging=0.9)
    losses: list[dict[str, float]] = []
    teachers = train_teachers(CONFIG, PICTURES, summaries, table, TEXT_ROWS, recipe, losses.append)
    assert [entry["teacher"] for entry in losses[::40]] == [1, 2, 3, 4, 4], "all pictures are two batches"
    summary = {name: value[0] for name, value in summaries.items()}
    said = teachers.cosines(summary, table[:13])
    assert (said.argmax(0) == torch.arange(13)).float().mean() > 0.7
    one = teachers.members[0].cosines(summary, table[:13])  # type: ignore[operator]
    other = teachers.members[1].cosines(summary, table[:13])  # type: ignore[operator]
    assert (one - other).abs().max() > 0.05, "teachers of different seeds say the same"

    pooling, head = Pooling(CONFIG), TextHead(10, 16, 0.2)
    before = [p.clone() for p in teachers.parameters()]
    sampler = SummarySampler(PICTURES, summaries, TEXT_ROWS, recipe, 9)
    asked = next(sampler.mixed(1))[1]
    start = copy_loss(pooling.eval(), head.eval(), teachers, asked, table).item()
    distil(pooling, head, teachers, sampler, table, recipe, lambda entry: None)
    assert copy_loss(pooling, head, teachers, asked, table).item() < 0.1 * start
    assert not pooling.training
    assert all(torch.equal(a, b) for a, b in zip(before, teachers.parameters(), strict=True))
