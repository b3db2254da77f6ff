"""A whole run: photos, frozen features, training, banks, calibration, model directory."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from training.batches import Sampler
from training.card import model_card
from training.fit import fit
from training.frozen import FeatureStore, widths_of
from training.photos import Photo, read_credited, read_photos, split_off
from training.recipe import Recipe
from training.student import Student
from xattn.encoders.hybrid.vision import SHAPES
from xattn.errors import DataError
from xattn.model import XAttnModel
from xattn.model.checkpoint import load_model, save_model
from xattn.model.hubness import Hubness
from xattn.training.calibrate import calibrate
from xattn.types import RegionGrid, Size

ENCODED_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Places:
    """Where a run reads and writes.

    data: data sets, each a directory that xattn.datasets reads, with a split `train`
    start: the model that training begins with: a name or a directory
    credits: JSON list of the sample photos, which are left out
    out: the model directory; work: frozen features, checkpoint and log
    """

    data: tuple[Path, ...]
    start: str
    credits: Path
    out: Path
    work: Path


def run(
    recipe: Recipe,
    places: Places,
    *,
    minutes: float | None = None,
    half: bool = True,
    progress: Callable[[str, int, int], None] = lambda task, done, total: None,
    on_step: Callable[[dict[str, float]], None] = lambda entry: None,
) -> XAttnModel:
    """Trains a model by the recipe and saves it. A killed run goes on from its last checkpoint.

    Args:
        recipe: what is trained, and how
        places: where the data lie and where the model goes
        minutes: training stops after so long, and goes on with the next call
        half: the trained blocks of the towers run in bfloat16
        progress: called with (what is done, photos done, photos in all)
        on_step: called with each step's losses

    Raises:
        DataError, ImageError: a data set or photo cannot be read.
        TrainingStopped: `minutes` have passed, or the loss is not finite.
        CheckpointError: the model to start from is damaged, or the checkpoint belongs to another recipe.
    """
    credited = read_credited(places.credits)
    photos = [photo for path in places.data for photo in read_photos(path, "train", credited)]
    if recipe.max_photos is not None:
        photos = random.Random(recipe.seed).sample(photos, min(recipe.max_photos, len(photos)))
    held, trained = split_off(photos, recipe.held_out, recipe.seed)
    model = load_model(places.start, device="cpu")
    torch.manual_seed(recipe.seed)
    student = Student(model, recipe.vit_blocks, recipe.text_layers, half)
    store = FeatureStore(places.work / "features")
    store.fill(student.vision, photos, lambda done, total: progress("frozen features", done, total))
    sampler = Sampler(trained, [store.shape_of(p) for p in trained], [s.grid for s in SHAPES], recipe)
    if not sampler.steps_per_epoch:
        raise DataError(f"{len(trained)} photos make no batch of {recipe.batch_size} of one shape")
    with (places.work / "log.jsonl").open("a", encoding="utf-8") as log:
        started = time.monotonic()

        def write(entry: dict[str, float]) -> None:
            rounded = {name: round(value, 5) for name, value in entry.items()}
            log.write(json.dumps(rounded | {"seconds": round(time.monotonic() - started, 1)}) + "\n")
            log.flush()
            on_step(entry)

        fit(student, store, sampler, recipe, places.work / "checkpoint.pt", write, minutes=minutes)
        finish(student, store, held, trained, recipe)
        log.write(json.dumps({"calibration": asdict(model.calibration)}) + "\n")
    save_model(model, places.out, card=model_card(recipe, model.calibration, trained, held))
    return model


def finish(
    student: Student,
    store: FeatureStore,
    held: Sequence[Photo],
    trained: Sequence[Photo],
    recipe: Recipe,
) -> None:
    """Fills the banks of hubness with training photos, and fits probabilities on held-out ones."""
    model = student.model.eval()
    captioned = [photo for photo in trained if photo.captions]
    rng = random.Random(recipe.seed)
    drawn = rng.sample(captioned, min(recipe.bank_size, len(captioned)))
    captions = model.encode_texts([rng.choice(photo.captions) for photo in drawn])
    model.hubness = Hubness(model.dim, scale=model.hubness.scale)
    model.hubness.fill(captions, encode(student, store, drawn)[1])
    regions, pooled, sizes = encode(student, store, held)
    calibrate(
        model,
        RegionGrid(regions, pooled, sizes),
        [photo.captions for photo in held],
        pooled_weight=recipe.pooled_weight,
        matched_share=recipe.matched_share,
    )


@torch.inference_mode()
def encode(
    student: Student, store: FeatureStore, photos: Sequence[Photo]
) -> tuple[Float[Tensor, "B R D"], Float[Tensor, "B D"], tuple[Size, ...]]:
    """(regions, pooled, sizes of the grids) of photos of any shape, in float32, in the order given."""
    student.eval()
    encoded: dict[str, RegionGrid] = {}
    widths = widths_of(student.vision)
    half, student.is_half = student.is_half, False  # as the saved model computes
    for number, shape in enumerate(SHAPES):
        members = [photo for photo in photos if store.shape_of(photo) == number]
        for start in range(0, len(members), ENCODED_AT_ONCE):
            part = members[start : start + ENCODED_AT_ONCE]
            regions, pooled = student.images(store.read(part, widths), number)
            grid = RegionGrid(regions, pooled, (shape.grid,) * len(part))
            encoded |= {photo.key: grid[i] for i, photo in enumerate(part)}
    student.is_half = half
    joined = RegionGrid.stack([encoded[photo.key] for photo in photos])
    return joined.regions, joined.pooled, joined.sizes
