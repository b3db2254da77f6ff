"""A run that is killed at any moment, and gone on with, ends with the same bytes."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.test_training_modes import TINY, data, starts  # noqa: F401  fixtures
from xattn.training.prepare import Places
from xattn.training.run import run
from xattn.training.settings import Settings

# Processes that begin with everything imported (see conftest), so that what is killed is the run and not
# the start.
CONTEXT = multiprocessing.get_context("forkserver")


def saved(directory: Path) -> tuple[bytes, dict[str, Any]]:
    """The weights and the config, which may stand under either of their two names."""
    config = json.loads((directory / "config.json").read_text())
    return (directory / config.pop("files")["weights"]).read_bytes(), config


def train(settings: Settings, places: Places) -> None:
    torch.set_num_threads(1)
    run(settings, places, compare=False)


def begun(settings: Settings, places: Places) -> multiprocessing.process.BaseProcess:
    process = CONTEXT.Process(target=train, args=(settings, places))
    process.start()
    return process


@pytest.mark.parametrize(("mode", "kills"), [("head", 10), ("lora", 4)])
def test_killed_at_random_moments(
    mode: str,
    kills: int,
    data: Path,  # noqa: F811
    starts: dict[str, str],  # noqa: F811
    tmp_path: Path,
) -> None:
    """Also while a checkpoint is written: there is one after every step."""
    settings = replace(TINY, mode=mode, epochs=8, ema=0.9, save_seconds=0.0)
    model = starts["default" if mode == "head" else "clip"]
    whole = Places(data, tmp_path / "whole", tmp_path / "whole-run", model)
    # With all features kept already, so that delays cover the training and not the towers.
    train(replace(settings, epochs=1), replace(whole, work=tmp_path / "warm", out=tmp_path / "warm-out"))

    def work(name: str) -> Path:
        directory = tmp_path / f"{name}-run"
        directory.mkdir()
        if (tmp_path / "warm" / "features").exists():
            shutil.copytree(tmp_path / "warm" / "features", directory / "features")
        return directory

    work("whole")
    begun(settings, whole).join()  # starts the server
    shutil.rmtree(tmp_path / "whole-run")
    work("whole")
    started = time.monotonic()
    uninterrupted = begun(settings, whole)
    uninterrupted.join()
    duration = time.monotonic() - started
    assert uninterrupted.exitcode == 0
    expected = saved(whole.out)

    draw = random.Random(mode)
    killed, places = 0, Places(data, tmp_path / "killed", work("killed"), model)
    while True:
        process = begun(settings, places)
        if killed < kills:
            process.join(draw.uniform(0.05, 0.6) * duration)
        else:
            process.join()
        if process.is_alive():
            process.kill()
            process.join()
            killed += 1
            continue
        assert process.exitcode == 0
        assert saved(places.out) == expected
        if killed >= kills:
            break
        # Done before it could be killed often enough: once more from the beginning.
        shutil.rmtree(places.work)
        work("killed")
