"""Fine-tuning on own captions: data, batches, the loop and what stops it, resuming, and the whole path."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.tiny_default import tiny_default
from training.own import command, state
from training.own import run as own_run
from training.own.data import kept_form, load_own, readable
from training.own.forgetting import interpolated
from training.own.loop import Loop
from training.own.objective import Batch, Batches, Objective
from training.own.prepared import Places, Prepared
from training.own.replay import load_general
from training.own.run import run
from training.own.settings import Settings, checked, rate, smoke
from training.own.validation import Validated, Validation, diverged, validated
from xattn.checkpoint import load_model, save_model
from xattn.contrastive import PairLoss
from xattn.datasets import load_dataset
from xattn.errors import CheckpointError, DataError, TrainingStopped
from xattn.hubness import Hubness

COLORS = {"red": (220, 20, 20), "green": (20, 160, 20), "blue": (20, 40, 220), "yellow": (240, 230, 20)}
SIZES = [(60, 90), (90, 60), (70, 72)]
TINY = replace(
    smoke(Settings()),
    epochs=3,
    batch_size=6,
    learning_rate=2e-3,
    validations=3,
    patience=0,
    keep=0.0,
    save_seconds=1e6,  # at the beginning and at the end only
)
NUM_PICTURES = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of a coloured square on noise; two captions each, one of them shared by a whole colour."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(NUM_PICTURES):
        color = list(COLORS)[number % len(COLORS)]
        height, width = SIZES[number % 3]
        noise = np.random.default_rng(number).integers(90, 160, (height, width, 3), dtype=np.uint8)
        noise[height // 4 : 3 * height // 4, width // 2 :] = COLORS[color]
        Image.fromarray(noise).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {color} square\nsquare number {number}\n")
    return folder


@pytest.fixture(scope="module")
def start(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random towers, on disk."""
    model = tiny_default(kept_form(load_dataset(data).records, "train"))
    directory = tmp_path_factory.mktemp("start") / "model"
    save_model(model, directory, "# random\n", quantized=False)
    return directory


@pytest.fixture(scope="module")
def places(data: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Places:
    base = tmp_path_factory.mktemp("shared")
    return Places(data, base / "out", base / "work", str(start))


@pytest.fixture(scope="module")
def prepared(places: Places) -> Prepared:
    """What a run computes with the towers."""
    model = load_model(places.model, device="cpu")
    return Prepared(model, load_own(places.data, TINY), TINY, places, lambda *_: None)


Make = Callable[..., Loop]


@pytest.fixture
def make_loop(prepared: Prepared, tmp_path: Path) -> Make:
    """A loop as after a fresh start of the program, in a directory of the test's own."""

    def make(settings: Settings = TINY, **more: Any) -> Loop:
        objective = copy.deepcopy(prepared.objective)
        # The pictures' fusion is the copied model's, or the copy would train the original.
        objective.kind = settings.loss  # type: ignore[assignment]
        objective.biases.requires_grad_(settings.loss == "sigmoid")
        kept = prepared.batches
        batches = Batches(kept.pictures, settings, kept.num_views)
        validation = copy.copy(prepared.validation)
        validation.source = copy.copy(validation.source)
        validation.source.fusion = objective.pictures.fusion  # type: ignore[attr-defined]
        return Loop(objective, batches, validation, settings, tmp_path, "key", **more)

    return make


# Settings and data


NEEDED = ["--data", "d", "--out", "o"]


def test_settings_are_options() -> None:
    found = command.parsed([*NEEDED, "--epochs", "3", "--learning_rate=0.5", "--set", "loss=sigmoid"])
    assert found.settings == replace(Settings(), epochs=3, learning_rate=0.5, loss="sigmoid")
    assert (found.data, found.out, found.work) == ("d", Path("o"), None)
    quick = command.parsed([*NEEDED, "--smoke", "--epochs", "7"]).settings
    assert quick == replace(smoke(Settings()), epochs=7)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([*NEEDED, "--learnig-rate", "3"], "--learning-rate"),
        ([*NEEDED, "--set", "learnig_rate=3"], "--learning-rate"),
        ([*NEEDED, "--epochs", "many"], "'many'"),
        (["--data", "d"], "--out"),
    ],
)
def test_mistakes_in_the_command_are_told_with_what_is_near(
    given: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.parsed(given)
    assert stopped.value.code == 2
    assert message in capfd.readouterr().err


def test_settings_that_make_no_sense() -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({"loss": "mse"}, "info_nce, sigmoid"),
        ({"batch_size": 1}, "at least 2"),
        ({"held_out": 1.0}, "share"),
        ({"learning_rate": float("nan")}, "above 0"),
    ]
    for change, message in changes:
        with pytest.raises(DataError, match=message):
            checked(replace(Settings(), **change))


def test_rate_rises_and_falls() -> None:
    rates = [rate(Settings(warmup_share=0.2), step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.05, rel=0.01)
    assert max(rates) == pytest.approx(rates[19], rel=0.01)
    assert rates[-1] < 0.01
    assert all(a > b for a, b in pairwise(rates[20:]))


def test_division_is_stable(data: Path, tmp_path: Path) -> None:
    whole = load_own(data, Settings(held_out=0.3))
    held = {record.image.name for record in whole.held_out}
    assert len(held) == round(0.3 * NUM_PICTURES)
    assert not held & {record.image.name for record in whole.train}
    # Elsewhere, and with less to hold out, the same pictures are among the first to be held out.
    for path in data.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    fewer = load_own(tmp_path, Settings(held_out=0.1))
    assert {record.image.name for record in fewer.held_out} < held


def test_splits_are_used_and_what_cannot_be_is_told(data: Path, tmp_path: Path) -> None:
    for split, numbers in (("train", range(12)), ("val", range(12, 16)), ("test", range(16, 19))):
        (tmp_path / split).mkdir()
        for number in numbers:
            for suffix in ("png", "txt"):
                name = f"{number}.{suffix}"
                (tmp_path / split / name).write_bytes((data / name).read_bytes())
    (tmp_path / "train" / "3.txt").unlink()
    found = load_own(tmp_path, Settings())
    assert (len(found.train), len(found.held_out)) == (11, 4)
    assert [(s.path.name, s.reason) for s in found.skipped] == [("3.png", "it has no caption")]
    assert len(load_own(tmp_path, Settings(), "test").held_out) == 3
    with pytest.raises(DataError, match="'dev' among them"):
        load_own(tmp_path, Settings(), "dev")
    (tmp_path / "train" / "5.png").write_bytes(b"no picture")
    kept, broken = readable(found.train)
    assert (len(kept), [s.path.name for s in broken]) == (10, ["5.png"])
    for number in range(6):
        (tmp_path / "train" / f"{number}.txt").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"6 captioned pictures .* data check"):
        load_own(tmp_path, Settings())


def test_batches(places: Places) -> None:
    own = load_own(places.data, TINY)
    pictures = kept_form(own.train, "train").pictures
    batches = Batches(pictures, TINY, 1)
    seen = [i for index in range(batches.per_epoch) for i in batches.members(0, index)]
    assert sorted(seen) == list(range(len(pictures)))
    assert batches.members(0, 0) == Batches(pictures, TINY, 1).members(0, 0)
    assert batches.members(0, 0) != batches.members(1, 0)
    # Towers in training see new crops in every epoch, the same in every run.
    live = [Batches(pictures, TINY, 4, live=True).batch(epoch, 0).views for epoch in (0, 1, 0)]
    assert max(live[0]) > 4
    assert live[0] == live[2] != live[1]


def test_shared_captions_are_right_for_all(make_loop: Make) -> None:
    batches = make_loop().batches
    batch = batches.batch(0, 0)
    texts = batch.positives.sum(0)
    own = [batches.pictures[i].captions for i in batches.members(0, 0)]
    assert len(set(batch.captions)) == len(batch.captions)
    assert batch.positives.sum(1).tolist() == [2] * len(own)
    colors = [captions[0] for captions in own]
    assert sorted(texts.tolist()) == sorted([1] * len(own) + [colors.count(c) for c in set(colors)])


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


def finished(loop: Loop) -> tuple[dict[str, Tensor], str, state.State]:
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


# The whole path


def arguments(places: Places, out: Path, *more: str) -> list[str]:
    work = ["--work", str(places.work)] if "--work" not in more else []
    return ["--data", str(places.data), "--model", places.model, "--out", str(out), *work, *more]


def test_command(
    places: Places, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    better = iter(range(100))  # in so few steps the start could be the best, and be what is saved
    monkeypatch.setattr(Validation, "__call__", lambda *_: Validated(next(better) / 100, 0, 0, 0, 0, 5))
    assert command.main([*arguments(places, tmp_path / "own"), "--smoke", "--restart"]) == 0
    model = load_model(tmp_path / "own", device="cpu")
    grounding = model.ground(Image.open(places.data / "1.png").convert("RGB"), ["green"])[0]
    assert grounding.weights.sum() + grounding.null_weight == pytest.approx(1, abs=1e-5)
    assert model.fingerprint != load_model(places.model, device="cpu").fingerprint
    assert "saved in" in capfd.readouterr().out
    table = (places.work / "before_after.md").read_text()
    assert "held out: " in table
    assert Image.open(places.work / "curves.png").size == (900, 560)
    card = (tmp_path / "own" / "README.md").read_text()
    assert "recall@5" in card


def test_the_bar_never_goes_back() -> None:
    """Batches are of nearly the same size only: a rate came out negative."""
    seen: list[tuple[int, int]] = []
    bar = SimpleNamespace(update=lambda what, done, total: seen.append((done, total)))
    show = command._shown(cast(Any, bar))
    for step, pictures in enumerate([64, 63, 64, 62, 63], 1):
        show({"step": step, "steps": 5, "pictures": pictures})
    assert all(earlier[0] < later[0] for earlier, later in pairwise(seen))
    assert {total for _, total in seen} == {seen[-1][0]}


def test_general_pictures_are_mixed_in(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of each batch, and with hard groups in the other half: the whole command."""
    better = count()
    monkeypatch.setattr(Validation, "__call__", lambda *_: Validated(next(better) / 100, 0, 0, 0, 0, 5))
    more = ["--replay", str(places.data), "--replay-share", "0.5", "--hard-group", "2", "--hard-every", "1"]
    work = tmp_path / "work"
    work.mkdir()
    (places.work / "features").mkdir(parents=True, exist_ok=True)
    (work / "features").symlink_to(places.work / "features")
    given = arguments(places, tmp_path / "own", "--work", str(work), "--smoke", "--no-comparison", *more)
    assert command.main(given) == 0
    log = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    assert all(entry["pictures"] == 4 for entry in log if "pictures" in entry)
    assert len(list(work.glob("mined-*.npy"))) == 1, "mined before the second epoch, not before the first"
    assert "general pictures" in (tmp_path / "own" / "README.md").read_text()
    # Nothing was forgotten, so the model is what training came to, and not where it began.
    best = torch.load(work / "state.pt", weights_only=True)["best"]
    saved, began = (load_model(path, device="cpu") for path in (tmp_path / "own", Path(places.model)))
    for name in ("attention.query.weight", "text.head.linear.weight"):
        end = saved.get_parameter(name).detach().float()
        torch.testing.assert_close(end, best[f"model.{name}"], atol=1e-3, rtol=1e-3)
        assert (end - began.get_parameter(name)).abs().max() > 2e-3
    # Neither the pictures kept apart nor the held-out ones are trained on.
    settings = smoke(Settings())
    general = load_general(places.data, None, settings)
    assert not {r.image for r in general.train} & {r.image for r in general.apart}
    assert (len(general.train), len(general.apart)) == (10, 10)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--loss", "mse"], "info_nce, sigmoid"),
        (["--model", "nowhere"], "no model 'nowhere'"),
        (["--validate-on", "dev"], "has the splits"),
    ],
)
def test_errors_are_one_message(
    places: Places, tmp_path: Path, capfd: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert command.main([*arguments(places, tmp_path / "out"), *more]) == 1
    assert message in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_models_of_other_towers_are_refused(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.color_model import color_model

    monkeypatch.setattr(own_run, "load_model", lambda *_, **__: color_model())
    with pytest.raises(DataError, match="ColorVision and ColorText"):
        run(TINY, replace(places, out=tmp_path / "out"))
