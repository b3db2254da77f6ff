"""The loop of fine-tuning: validation and what stops it, resuming, and the guard against forgetting."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tests.tiny_own import (  # noqa: F401  fixtures
    TINY,
    Make,
    data_fixture,
    make_loop_fixture,
    places_fixture,
    prepared_fixture,
    start_fixture,
)
from xattn.errors import CheckpointError, TrainingStopped
from xattn.losses import PairLoss
from xattn.model.hubness import Hubness
from xattn.training import checkpoints
from xattn.training.forgetting import interpolated
from xattn.training.loop import Loop
from xattn.training.objective import Batch, Objective
from xattn.training.settings import Settings, rate
from xattn.training.validation import Validated, Validation, diverged, validated


def test_rate_rises_and_falls() -> None:
    rates = [rate(Settings(warmup_share=0.2), step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.05, rel=0.01)
    assert max(rates) == pytest.approx(rates[19], rel=0.01)
    assert rates[-1] < 0.01
    assert all(a > b for a, b in pairwise(rates[20:]))


# Validation


def test_validated_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.5, 0.2], [0.3, 0.8, 0.5, 0.1], [0.1, 0.2, 0.6, 0.7]])
    found = validated(scores, torch.tensor([0, 1, 1, 0]))
    # Ranks 1, 1, 3 (a tie counts against), 2; first for 1, 1, 2 captions.
    assert (found.recall_1, found.recall_5, found.most_first) == (0.5, 1.0, 0.5)
    assert found.mean_rank == pytest.approx((0 + 0 + 1 + 0.5) / 4)
    assert validated(torch.zeros(20, 7), torch.arange(7)).recall_10 == 0.0
    assert validated(torch.full((20, 7), torch.nan), torch.arange(7)).most_first == 1.0


def test_collapse_is_told_from_captions_that_are_alike() -> None:
    def found(most_first: float, pictures: int = 50) -> Validated:
        return Validated(0.1, 0.2, 0.3, 0.2, most_first, pictures)

    assert found(0.6).collapsed(found(0.1))
    assert not found(0.4).collapsed(found(0.1))
    assert not found(0.6).collapsed(found(0.5))  # they were alike before
    assert not found(0.6, pictures=4).collapsed(found(0.1))


def test_a_model_that_ranks_at_random_is_told_from_a_weak_one() -> None:
    def found(mean_rank: float, pictures: int = 50) -> Validated:
        return Validated(0.1, 0.2, 0.3, mean_rank, 0.1, pictures)

    good, weak = found(0.1), found(0.4)
    assert found(0.45).broke(good)
    assert found(1.0).broke(good), "all scores alike: every other picture comes before the right one"
    assert not found(0.3).broke(good), "worse, and far from chance"
    assert not found(0.2).broke(found(0.25))
    assert not found(0.55).broke(weak), "a lead of luck only"
    assert found(0.5, pictures=500).broke(found(0.4, pictures=500)), "among many pictures it is no luck"
    assert not found(0.5, pictures=5).broke(found(0.1, pictures=5))
    assert "50% by chance" in str(found(0.48).fault(good))
    assert found(0.2).fault(good) is None


def test_guard_is_quiet_whatever_luck_does_to_weak_data() -> None:
    """Models that rank a little better than chance, the same before and after, on few pictures."""
    generator = torch.Generator().manual_seed(0)

    def draw(signal: float, count: int) -> Validated:
        owners = torch.arange(count)
        scores = torch.randn(count, count, generator=generator) + signal * torch.eye(count)
        return validated(scores, owners)

    cases = [(signal, count) for signal in (0.0, 0.5, 1.0, 2.0) for count in (10, 30, 100)]
    pairs = [(draw(*case), draw(*case)) for case in cases for _ in range(100)]
    assert not any(after.broke(before) for before, after in pairs)
    random = [(draw(2.0, 50), draw(0.0, 50)) for _ in range(100)]
    assert sum(after.broke(before) for before, after in random) >= 95


# The loop


def finished(loop: Loop) -> tuple[dict[str, Tensor], str, checkpoints.State]:
    final = loop.run()
    saved = torch.load(loop.path, weights_only=True)
    log = [json.loads(line) for line in loop.log_path.read_text().splitlines()]
    timeless = json.dumps([{k: v for k, v in entry.items() if k != "seconds"} for entry in log])
    return saved["trained"], timeless, final


class _PowerCut(BaseException):
    pass


@pytest.mark.parametrize("save_seconds", [0.0, 0.3])
def test_resumed_run_equals_the_uninterrupted_one(
    make_loop: Make, tmp_path: Path, save_seconds: float
) -> None:
    weights, log, final = finished(make_loop())
    assert final.step == make_loop().num_steps == 9
    for name in ("state.pt", "log.jsonl"):
        (tmp_path / name).unlink()
    settings = replace(TINY, save_seconds=save_seconds)
    cuts = iter([1, 3, 4, 6, 9])
    cut = next(cuts, None)

    def power(entry: dict[str, Any]) -> None:
        nonlocal cut
        if entry["step"] == cut:
            cut = next(cuts, None)
            raise _PowerCut

    while True:
        try:
            torch.manual_seed(int(time.monotonic()))  # a new process begins with other random numbers
            again, log_again, _ = finished(make_loop(settings, on_entry=power))
            break
        except _PowerCut:
            pass
    assert cut is None
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert log_again == log


def test_training_learns_and_the_best_state_is_left(make_loop: Make) -> None:
    loop = make_loop(replace(TINY, epochs=40, validations=6, learning_rate=1e-2))
    final = loop.run()
    losses = [e["loss"] for e in map(json.loads, loop.log_path.read_text().splitlines()) if "loss" in e]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4]), "nothing was learned"
    assert loop.validation(loop.objective).value == pytest.approx(final.best_value)
    assert final.best_value == max(Validated.of_record(entry).value for entry in final.history)


@pytest.mark.parametrize("loss", ["info_nce", "sigmoid"])
def test_scales_start_where_the_model_matches(make_loop: Make, loss: str) -> None:
    loop = make_loop(replace(TINY, loss=loss))
    loop.objective.set_scales(loop.batches.batch(0, 0))
    assert ((loop.objective.log_scales.exp() >= 4.99) & (loop.objective.log_scales.exp() <= 40.01)).all()
    assert loop.objective.biases.requires_grad == (loss == "sigmoid")
    assert loop.run().step == 9


def test_loss_that_is_no_number_stops_and_names_the_batch(make_loop: Make) -> None:
    loop = make_loop(replace(TINY, save_seconds=0.0))
    poisoned = loop.batches.members(1, 1)
    real = loop.objective.pictures.load

    def load(rows: Sequence[int], views: Sequence[int]) -> Any:
        found = real(rows, views)
        if sorted(rows) == sorted(loop.batches.pictures[i].row for i in poisoned):
            loop.objective.model.attention.query.weight.data[0] = torch.nan
        return found

    loop.objective.pictures.load = load  # type: ignore[method-assign]
    name = str(loop.batches.pictures[poisoned[0]].path)
    with pytest.raises(TrainingStopped, match="epoch 2, batch 2") as stopped:
        loop.run()
    assert name in str(stopped.value)
    kept = torch.load(loop.path, weights_only=True)
    assert kept["step"] == 4
    assert all(value.isfinite().all() for value in kept["trained"].values())


def test_early_stop_and_collapse(make_loop: Make, tmp_path: Path) -> None:
    def fixed(recalls: list[float], most_first: list[float]) -> Callable[[Objective], Validated]:
        found = iter(zip(recalls, most_first, strict=True))

        def validate(objective: Objective) -> Validated:
            recall, first = next(found)
            return Validated(recall, recall, recall, 1 - recall, first, 50)

        return validate

    settings = replace(TINY, validations=9, patience=2)
    loop = make_loop(settings)
    loop.validation = cast(Validation, fixed([0.1, 0.2, 0.3, 0.3, 0.2, 0.9], [0.1] * 6))
    stopped = loop.run()
    assert (stopped.step, stopped.best_value) == (4, pytest.approx(0.3))
    assert "no better recall in 2" in str(stopped.stopped)
    (tmp_path / "state.pt").unlink()

    loop = make_loop(settings)
    loop.validation = cast(Validation, fixed([0.1, 0.2, 0.9], [0.1, 0.1, 0.8]))
    stopped = loop.run()
    assert stopped.step == 2
    assert "collapsed: one picture comes first for 80%" in str(stopped.stopped)
    # Repeated, the command does not train on.
    assert make_loop(settings).run().step == 2


def test_training_that_runs_away_is_stopped(make_loop: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert diverged(2.0, [3.1, 2.8]) is None
    assert diverged(0.1, [0.3, 1.2]) is None, "pictures that are nearly learned"
    assert diverged(0.1, [1.4, 1.8]) is not None
    assert "the loss is 3.1 on average, 2 at the start" in str(diverged(2.0, [3.0, 3.2]))

    loop = make_loop(replace(TINY, validations=9))
    backward, calls = loop.objective.backward, []

    def rising(batch: Batch, factor: float = 1.0) -> PairLoss:
        calls.append(batch)
        found = backward(batch, factor)
        return replace(found, total=found.total * (1 if len(calls) < 3 else 9))

    monkeypatch.setattr(loop.objective, "backward", rising)
    stopped = loop.run()
    assert stopped.step == 3, "the first two steps were as usual"
    assert "runs away" in str(stopped.stopped)
    assert "--learning-rate" in str(stopped.stopped)
    assert "runs away" in stopped.history[-1]["fault"]
    assert all("fault" not in entry for entry in stopped.history[:-1])


def test_guard_fires_at_a_thousand_times_the_rate(make_loop: Make, tmp_path: Path) -> None:
    """After a start that has learned the pictures; at the rate it learned with, the guard is quiet."""
    settings = replace(TINY, epochs=40, validations=10, learning_rate=1e-2)
    loop = make_loop(settings)
    pictures = loop.objective.pictures
    loop.validation = Validation(loop.batches.pictures, pictures, loop.validation.pooled_weight)
    learned = loop.run()
    assert learned.stopped is None
    (tmp_path / "state.pt").unlink()
    again = Loop(
        loop.objective,
        loop.batches,
        loop.validation,
        replace(settings, learning_rate=1e3 * settings.learning_rate),
        tmp_path,
        "key",
    )
    broken = again.run()
    assert broken.step < again.num_steps
    assert "--learning-rate 1 --restart" in str(broken.stopped)
    assert broken.best_value >= learned.best_value, "the best earlier state is left"


def test_checkpoints_of_others_are_refused(make_loop: Make, tmp_path: Path) -> None:
    loop = make_loop(replace(TINY, epochs=1))
    loop.run()
    loop.key = "other"
    with pytest.raises(CheckpointError, match="--restart"):
        loop.run()
    content = loop.path.read_bytes()
    loop.path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        loop.run()


# The guard against forgetting


def test_share_of_the_trained_weights(make_loop: Make) -> None:
    objective = make_loop().objective
    name = "attention.query.weight"
    start = {k: p.detach().clone() for k, p in objective.model.named_parameters()}
    trained = {name: start[name] + 1.0}
    lost = {"by": 0.0}

    def moved() -> Tensor:
        return objective.model.attention.query.weight.detach() - start[name]

    def watched(_: Objective, hubness: Hubness) -> Validated:
        return Validated(0.5 - lost["by"] * float(moved().mean()), 0, 0, 0, 0, 50)

    prepared = cast(
        Any, SimpleNamespace(model=objective.model, objective=objective, start=start, watched=None)
    )
    share, note = interpolated(prepared, trained, replace(TINY, keep=0.25))
    assert (share, note) == (0.75, None)
    torch.testing.assert_close(moved(), torch.full_like(start[name], 0.75))
    prepared.watched = watched
    assert interpolated(prepared, trained, TINY) == (1.0, None)
    lost["by"] = 0.03  # 2 points may be lost: up to two thirds of the way
    share, note = interpolated(prepared, trained, TINY)
    assert share == 0.55
    assert note is not None
    lost["by"] = 0.5
    share, note = interpolated(prepared, trained, TINY)
    assert share == 0.0
    assert "forgets" in str(note)
    assert not moved().any()
