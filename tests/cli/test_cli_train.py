"""The command that fine-tunes: its options, the whole path, and its errors."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from PIL import Image

from tests.tiny_own import TINY, data_fixture, places_fixture, start_fixture  # noqa: F401  fixtures
from xattn.cli import train
from xattn.errors import DataError
from xattn.model.checkpoint import load_model
from xattn.training import run as own_run
from xattn.training.prepare import Places
from xattn.training.replay import load_general
from xattn.training.run import run
from xattn.training.settings import Settings, checked, smoke
from xattn.training.validation import Validated, Validation

# Options


NEEDED = ["--data", "d", "--out", "o"]


def test_settings_are_options() -> None:
    found = train.parsed([*NEEDED, "--epochs", "3", "--learning_rate=0.5", "--set", "loss=sigmoid"])
    assert found.settings == replace(Settings(), epochs=3, learning_rate=0.5, loss="sigmoid")
    assert (found.data, found.out, found.work) == ("d", Path("o"), None)
    quick = train.parsed([*NEEDED, "--smoke", "--epochs", "7"]).settings
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
        train.parsed(given)
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


# The whole path


def arguments(places: Places, out: Path, *more: str) -> list[str]:
    work = ["--work", str(places.work)] if "--work" not in more else []
    return ["--data", str(places.data), "--model", places.model, "--out", str(out), *work, *more]


def test_command(
    places: Places, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    better = iter(range(100))  # in so few steps the start could be the best, and be what is saved
    monkeypatch.setattr(Validation, "__call__", lambda *_: Validated(next(better) / 100, 0, 0, 0, 0, 5))
    assert train.main([*arguments(places, tmp_path / "own"), "--smoke", "--restart"]) == 0
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
    show = train._shown(cast(Any, bar))
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
    assert train.main(given) == 0
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
    assert train.main([*arguments(places, tmp_path / "out"), *more]) == 1
    assert message in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_models_of_other_towers_are_refused(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.color_model import color_model

    monkeypatch.setattr(own_run, "load_model", lambda *_, **__: color_model())
    with pytest.raises(DataError, match="ColorVision and ColorText"):
        run(TINY, replace(places, out=tmp_path / "out"))


@pytest.mark.parametrize("folder", ["out", "out-run"])
def test_folders_of_a_person_are_left_as_they_are(
    tmp_path: Path, folder: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / folder).mkdir()
    notes = tmp_path / folder / "log.jsonl"
    notes.write_text("a person's own")
    given = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert train.main(given) == 2
    assert str(tmp_path / folder) in capfd.readouterr().err.replace("\n", "")
    assert notes.read_text() == "a person's own"
