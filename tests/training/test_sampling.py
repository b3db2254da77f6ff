"""Which pictures make a batch: by chance, with general ones, or hard ones together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from xattn.errors import CheckpointError
from xattn.training.mining import Embedded, Hard, Miner, grouped, nearest_wrong
from xattn.training.replay import plans
from xattn.training.sampling import Shuffled
from xattn.training.settings import Settings

SETTINGS = replace(Settings(), batch_size=10, hard_group=3, hard_every=2, same_text=0.99, same_picture=0.99)


def epoch_of(plan: Shuffled, epoch: int) -> list[int]:
    return [member for index in range(plan.per_epoch) for member in plan.members(epoch, index)]


def test_every_own_picture_once_an_epoch_and_the_share_of_general_ones() -> None:
    settings = replace(SETTINGS, replay_share=0.4, hard_group=0)
    own, both = plans(25, 11, settings)
    batches = [both.members(epoch, index) for epoch in range(8) for index in range(both.per_epoch)]
    assert both.per_epoch == own.per_epoch == 4  # 25 pictures, 6 of them a batch
    for epoch in range(8):
        seen = [m for batch in batches[4 * epoch : 4 * epoch + 4] for m in batch if m < 25]
        assert sorted(seen) == list(range(25))
    general = [m - 25 for batch in batches for m in batch if m >= 25]
    assert {len([m for m in batch if m >= 25]) for batch in batches} <= {3, 4}
    counts = np.bincount(general, minlength=11)
    assert counts.max() - counts.min() <= 1, "each general picture as often as the others"
    alone, same = plans(25, 0, settings)
    assert alone is same
    assert alone.per_epoch == 2, "without general pictures the whole batch is own ones"


def embedded(count: int = 12, seed: int = 0) -> Embedded:
    """Two captions a picture; pictures 0 and 1 say the same, 2 and 3 show the same."""
    generator = torch.Generator().manual_seed(seed)
    pooled = F.normalize(torch.randn(count, 16, generator=generator), dim=-1)
    texts = F.normalize(torch.randn(2 * count, 16, generator=generator), dim=-1)
    texts[1] = F.normalize(texts[2] + 0.02 * texts[5], dim=-1)
    pooled[3] = F.normalize(pooled[2] + 0.02 * pooled[4], dim=-1)
    return pooled, texts, torch.arange(2 * count) // 2


def test_nearest_wrong_by_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xattn.training.mining.ROWS", 5)
    pooled, texts, owners = embedded()
    found = nearest_wrong(pooled, texts, owners, SETTINGS)
    for i in range(12):
        hard = {}
        for j in range(12):
            own, others = texts[owners == i], texts[owners == j]
            same = (own @ others.T).max() >= 0.99 or pooled[i] @ pooled[j] >= 0.99
            if i != j and not same:
                hard[j] = max((others @ pooled[i]).max().item(), (own @ pooled[j]).max().item())
        expected = sorted(hard, key=lambda j: -hard[j])
        assert [j for j in found[i].tolist() if j >= 0] == expected
    assert 1 not in found[0]
    assert 3 not in found[2]


def test_groups_hold_those_that_are_hard() -> None:
    neighbours = np.array([[3, 1], [2, 0], [1, 3], [0, -1], [5, 0], [4, 0], [0, 1]])
    assert grouped([6, 4, 0, 1, 2, 3, 5], neighbours, 2) == [6, 0, 4, 5, 1, 2, 3]
    plan = Hard(12, SETTINGS, 6)
    by_chance = epoch_of(plan, 4)
    plan.neighbours = nearest_wrong(*embedded(), SETTINGS)
    hard = epoch_of(plan, 4)
    assert sorted(hard) == sorted(by_chance) == list(range(12))
    assert hard != by_chance
    assert hard[1] in plan.neighbours[hard[0]]


def test_mined_once_for_some_epochs_and_kept_for_a_run_that_goes_on(tmp_path: Path) -> None:
    mined = []

    def miner(seed: int) -> Miner:
        def embed() -> Embedded:
            mined.append(seed)
            return embedded(seed=seed)

        return Miner(Hard(12, SETTINGS, 6), embed, SETTINGS, tmp_path, "0123456789")

    first = miner(1)
    first(0, False)
    first(1, False)
    assert first.plan.neighbours is None, "the first epochs are by chance"
    first(2, False)
    first(3, False)
    assert mined == [1]
    again = miner(2)  # a new program with a model that has trained on
    again(3, True)
    assert mined == [1]
    assert np.array_equal(again.plan.neighbours, first.plan.neighbours)  # type: ignore[arg-type]
    for path in tmp_path.glob("mined-*.npy"):
        path.unlink()
    with pytest.raises(CheckpointError, match="--restart"):
        miner(3)(3, True)
