"""Training the towers: what a mode trains, adapters, chunks, several processes, half precision."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.multiprocessing import start_processes

from tests.tiny_clip import FAMILIES, tiny_clip
from tests.tiny_default import tiny_default
from xattn.cli import train
from xattn.datasets import load_dataset
from xattn.encoders.openclip.model import RegionConfig
from xattn.errors import DataError
from xattn.model import XAttnModel
from xattn.model.checkpoint import load_model, save_model
from xattn.model.zero_shot import assemble
from xattn.training import modes, parallel
from xattn.training.data import load_own
from xattn.training.loop import Loop
from xattn.training.lora import add_adapters, merge_adapters
from xattn.training.prepare import Places, Prepared
from xattn.training.run import run
from xattn.training.settings import Settings, checked, smoke
from xattn.training.validation import Validated, Validation

COLORS = ((220, 20, 20), (20, 160, 20), (20, 40, 220))
SIZES = ((60, 90), (90, 60), (70, 70))
TINY = replace(
    smoke(Settings()),
    batch_size=6,
    epochs=2,
    learning_rate=1e-3,
    tower_rate=1e-3,
    patience=0,
    keep=0.0,
    save_seconds=1e6,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(16):
        noise = np.random.default_rng(number).integers(90, 160, (*SIZES[number % 3], 3), dtype=np.uint8)
        noise[20:40, 30:] = COLORS[number % len(COLORS)]
        Image.fromarray(noise).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"square number {number}\nof colour {number % len(COLORS)}\n")
    return folder


def clip_model(family: str = "vit") -> XAttnModel:
    return assemble(tiny_clip(family), RegionConfig(num_regions=12), name=family)


@pytest.fixture(scope="module")
def starts(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Directories of an open_clip model and of the default one with random towers."""
    base = tmp_path_factory.mktemp("starts")
    save_model(clip_model(), base / "clip", "# tiny\n")
    default_like = tiny_default([text for record in load_dataset(data).records for text in record.captions])
    save_model(default_like, base / "default", "# random\n", quantized=False)
    return {"clip": str(base / "clip"), "default": str(base / "default")}


def weights(directory: Path | str) -> dict[str, Tensor]:
    return dict(load_model(directory, device="cpu").named_parameters())


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not before[name].equal(after[name])}


# Which parameters


def test_blocks_are_found_in_every_family() -> None:
    for family in FAMILIES:
        model = clip_model(family)
        visual, text = modes.nets_of(model)
        blocks, _ = modes.blocks_of(visual)
        assert len(blocks) >= 3, family
        assert len(modes.blocks_of(text)[0]) == 1, family
        modes.free(model, replace(TINY, mode="last-blocks", blocks=1))
        free = {name for name, p in model.named_parameters() if p.requires_grad}
        assert all(name in free for name, _ in model.named_parameters() if name.startswith("attention.")), (
            family
        )
        inside = {id(p) for p in blocks[0].parameters()}
        assert not any(p.requires_grad for p in model.parameters() if id(p) in inside), family
        assert any(p.requires_grad for p in blocks[-1].parameters()), family
        # A ResNet's last part is its attention pool, positions and all.
        inputs = ("visual.conv1", "patch_embed", "pos_embed", "token_embedding", "visual.positional")
        assert not any(part in name for name in free for part in inputs), (family, free)


def test_what_comes_after_the_blocks_is_trained_too() -> None:
    model = clip_model("vit")
    modes.free(model, replace(TINY, mode="last-blocks", blocks=1))
    free = {name for name, p in model.named_parameters() if p.requires_grad and "attention." not in name}
    assert {"vision.visual.proj", "vision.visual.ln_post.weight"} <= free
    assert {"text.clip.text_projection", "text.clip.ln_final.weight"} <= free
    assert "vision.visual.transformer.resblocks.1.mlp.c_fc.weight" not in free
    assert "text.clip.logit_scale" not in free


def test_adapters_begin_with_nothing_and_merge_into_the_weights() -> None:
    model = clip_model("vit")
    frames = [model.preprocess(Image.new("RGB", (80, 50), "red"))]
    names = [name for name, _ in model.named_parameters()]
    before = model.encode_frames(frames).regions.clone()
    modes.free(model, replace(TINY, mode="lora", rank=2))
    torch.testing.assert_close(model.encode_frames(frames).regions, before)
    ups = [p for name, p in model.named_parameters() if name.endswith(".up")]
    assert len(ups) == 4 * 4  # in, out and two of the MLP in each block of towers with 3 and 1
    for up in ups:
        nn.init.normal_(up, std=0.1)
    changed_by = model.encode_frames(frames).regions.clone()
    assert not torch.allclose(changed_by, before, atol=1e-3)
    merge_adapters(model)
    assert sorted(name for name, _ in model.named_parameters()) == sorted(names)
    torch.testing.assert_close(model.encode_frames(frames).regions, changed_by)


def test_adapter_by_hand() -> None:
    layer = nn.Linear(3, 2)
    weight = layer.weight.detach().clone()
    assert add_adapters([layer], rank=1, alpha=4.0) == 1
    adapter = layer.parametrizations["weight"][0]  # type: ignore[index]
    with torch.no_grad():
        adapter.up.copy_(torch.tensor([[1.0], [2.0]]))
        adapter.down.copy_(torch.tensor([[3.0, 0.0, -1.0]]))
    torch.testing.assert_close(layer.weight, weight + 4 * torch.tensor([[3.0, 0, -1], [6, 0, -2]]))


# Whole runs

CLIP_BLOCK, CLIP_NORM = "vision.visual.transformer.resblocks.", "vision.visual.ln_post.weight"
VIT_NORM = "vision.vit.norm.weight"


@pytest.fixture
def _always_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each validation finds more than the one before: the last weights are the result."""
    values = iter(range(100))
    found = lambda *_: Validated(next(values) / 100, 0, 0, 0, 0, 5)  # noqa: E731
    monkeypatch.setattr(Validation, "__call__", found)


@pytest.mark.usefixtures("_always_better")
@pytest.mark.parametrize("start", ["clip", "default"])
@pytest.mark.parametrize("mode", ["head", "lora", "last-blocks", "full"])
def test_every_mode_trains_what_it_says(
    mode: str, start: str, data: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    settings = replace(TINY, mode=mode, blocks=1, epochs=1)
    places = Places(data, tmp_path / "out", tmp_path / "work", starts[start])
    result = run(settings, places, compare=False)
    assert result.steps == 2
    assert result.share == 1.0
    before, after = weights(starts[start]), weights(tmp_path / "out")
    changed_ones = moved(before, after)
    assert "attention.query.weight" in changed_ones
    first, last, norm = {
        "clip": (f"{CLIP_BLOCK}0.attn.in_proj_weight", f"{CLIP_BLOCK}2.attn.in_proj_weight", CLIP_NORM),
        "default": (
            "vision.vit.blocks.0.attn.qkv.weight",
            "vision.vit.blocks.11.attn.qkv.weight",
            VIT_NORM,
        ),
    }[start]
    expected = {"head": (), "lora": (first, last), "last-blocks": (last, norm), "full": (first, last, norm)}
    assert changed_ones & {first, last, norm} == set(expected[mode])
    texts = [name for name in changed_ones if name.startswith("text.")]
    assert bool(texts) == (start == "default" or mode != "head")
    assert load_model(tmp_path / "out", device="cpu").ground(Image.new("RGB", (90, 60)), ["red"])


def prepared(data: Path, start: str, work: Path, **changes: Any) -> Prepared:
    settings = replace(TINY, **changes)
    places = Places(data, work / "out", work / "work", start)
    return Prepared(
        load_model(start, device="cpu"), load_own(data, settings), settings, places, lambda *_: None
    )


@pytest.mark.parametrize("start", ["clip", "default"])
def test_chunks_change_no_gradient(start: str, data: Path, starts: dict[str, str], tmp_path: Path) -> None:
    """The batch, and with it the wrong answers, is the same however few pictures pass at once."""
    found = []
    for chunk in (100, 2):
        given = prepared(data, starts[start], tmp_path, mode="last-blocks", chunk=chunk, blocks=1)
        given.objective.backward(given.batches.batch(0, 0))
        found.append({name: p.grad for name, p in given.objective.trained() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) > 20
    for name, gradient in found[0].items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[1][name], gradient, atol=1e-4 * scale + 1e-6, rtol=0, msg=name)


def test_towers_stay_in_eval_mode(data: Path, starts: dict[str, str], tmp_path: Path) -> None:
    given = prepared(data, starts["default"], tmp_path, mode="full")
    given.objective.train()
    training = {name for name, m in given.model.named_modules() if m.training}
    assert training
    assert all(name.startswith(("attention", "vision.fusion", "text.head")) for name in training)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(precision: str, data: Path, starts: dict[str, str], tmp_path: Path) -> None:
    settings = replace(TINY, mode="lora", precision=precision)
    result = run(settings, Places(data, tmp_path / "out", tmp_path / "work", starts["clip"]), compare=False)
    assert result.steps == 4
    assert all(p.isfinite().all() for p in weights(tmp_path / "out").values())


def test_average_of_the_weights_is_what_is_kept(data: Path, starts: dict[str, str], tmp_path: Path) -> None:
    """By hand: the mean that the loop keeps, against the parameters after each step."""
    given = prepared(data, starts["clip"], tmp_path, ema=0.5)
    steps: list[Tensor] = []

    class Watched(Loop):
        def _average(self, state: Any) -> None:
            steps.append(self.objective.model.attention.query.weight.detach().clone())
            super()._average(state)

    (tmp_path / "work").mkdir(exist_ok=True)
    start = given.objective.model.attention.query.weight.detach().clone()
    loop = Watched(
        given.objective, given.batches, given.validation, given.settings, tmp_path / "work", "key"
    )
    state = loop.run()
    expected = start
    for number, value in enumerate(steps):
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(state.average["model.attention.query.weight"], expected)
    assert not torch.allclose(expected, steps[-1])


def test_mistaken_settings() -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({"mode": "heads"}, "head, lora, last-blocks, full"),
        ({"precision": "int8"}, "auto, fp32"),
        ({"shard": True}, "mode full"),
        ({"chunk": 0}, "at least 1"),
        ({"ema": 1.0}, "share"),
    ]
    for change, message in changes:
        with pytest.raises(DataError, match=message):
            checked(replace(Settings(), **change))
    with pytest.raises(DataError, match="several processes"):
        run(replace(TINY, mode="full", shard=True), Places(Path("a"), Path("b"), Path("c")))


# Several processes


SEVERAL = ["--smoke", "--mode", "full", "--set", "batch_size=7", "--set", "chunk=2"]
SEVERAL += ["--set", "tower_rate=1e-4", "--set", "keep=0", "--set", "patience=0"]


def arguments(places: Places, *more: str) -> list[str]:
    given = ["--data", str(places.data), "--out", str(places.out), "--work", str(places.work)]
    return [*given, "--model", places.model, "--no-comparison", *SEVERAL, *more]


def torchrun(given: list[str]) -> str:
    """What two processes say that torchrun starts."""
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "xattn",
        "train",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command_line = [sys.executable, *launch, *given]
    return subprocess.run(
        command_line, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def forked(given: list[str], told: Path) -> str:
    """The same without torchrun: processes that need not import everything, told what it tells them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_processes(_one_of_two, (port, given, told), nprocs=2, start_method="forkserver")
    return "".join(path.read_text() for path in told.iterdir())


def _one_of_two(rank: int, port: int, given: list[str], told: Path) -> None:
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in environment.items()}, MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(1)
    with (told / str(rank)).open("w") as file, redirect_stdout(file):
        assert train.main(given) == 0


@pytest.fixture(scope="module")
def alone(data: Path, starts: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process that those of several are compared with."""
    base = tmp_path_factory.mktemp("alone")
    assert train.main(arguments(Places(data, base / "out", base / "work", starts["clip"]))) == 0
    return base


@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_equal_one(
    sharded: bool, alone: Path, data: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    """Full fine-tuning, data-parallel by torchrun and with sharded weights: to 1e-5 of each weight."""
    places = Places(data, tmp_path / "out", tmp_path / "work", starts["clip"])
    (tmp_path / "told").mkdir()
    if sharded:
        told = forked(arguments(places, "--set", "shard=true"), tmp_path / "told")
    else:
        told = torchrun(arguments(places))
    assert told.count("saved in") == 1, "one process talks for all"
    before, saved = weights(starts["clip"]), weights(tmp_path / "out")
    assert before.keys() == saved.keys()
    one, two = (
        torch.load(base / "work" / "state.pt", weights_only=True)["trained"] for base in (alone, tmp_path)
    )
    changed_ones = [
        name for name, value in before.items() if not value.equal(one.get(f"model.{name}", value))
    ]
    assert len(changed_ones) > 50
    for name, expected in one.items():
        torch.testing.assert_close(two[name], expected, atol=1e-5, rtol=0, msg=name)
    lines = [(base / "work" / "log.jsonl").read_text().count("\n") for base in (alone, tmp_path)]
    assert lines[0] == lines[1]


def test_parts_cover_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    for world in (1, 2, 3):
        monkeypatch.setattr(parallel, "world", lambda world=world: world)
        found: list[int] = []
        for rank in range(world):
            monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
            found += range(7)[parallel.part(7)]
        assert found == list(range(7))


def test_pieces_are_as_many_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "world", lambda: 2)
    for own in ([0, 1, 2, 3], [4, 5, 6]):  # seven things in two processes
        found = parallel.pieces(own, 7, 2)
        assert len(found) == 2
        assert [x for piece in found for x in piece] == own
    assert parallel.pieces([], 1, 5) == [[]]
