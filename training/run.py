"""A whole run: towers, features, training, calibration, checkpoint."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TextIO

import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from torch.nn import functional as F

from training.alignment import align
from training.batches import Sampler
from training.card import model_card
from training.distil import SummarySampler, distil, summarise, train_teachers
from training.fit import OnStep
from training.loop import Objective, train
from training.recipes import Recipe
from training.swaps import with_wrong_captions
from training.towers import load_text, load_vision
from xattn.attention import CrossAttention
from xattn.encoders.hybrid.fusion import FusionConfig
from xattn.encoders.hybrid.text import SentenceConfig, SentenceEncoder, TextHead
from xattn.encoders.hybrid.vision import HybridConfig, HybridEncoder
from xattn.errors import DataError
from xattn.model import Calibration, XAttnModel
from xattn.model.checkpoint import save_model
from xattn.model.hubness import Hubness
from xattn.training.calibrate import calibrate
from xattn.training.default_towers import towers_of
from xattn.training.features import ViewFeatures, cached_features
from xattn.training.gather import gather, text_table
from xattn.training.pictures import Dataset, Picture, read_credited, read_dataset
from xattn.types import Progress, RegionGrid

BANK_BATCH = 96
"""Pictures fused at once for the bank."""
SEEDS_APART = 1000
"""Between the runs of one recipe, so that recipes of seeds nearby share no batches."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a run reads and writes.

    data: directory with records.jsonl; credits: JSON list of the sample photos, which are left out;
    out: the model directory; cache: of features; log: one JSON object a line; exact: a second model
    directory, for the weights before they are rounded
    """

    data: Path
    credits: Path
    out: Path
    cache: Path
    log: Path
    exact: Path | None = None


def run(
    recipe: Recipe,
    places: Places,
    *,
    device: str = "cpu",
    progress: Callable[[Progress], None] | None = None,
    on_step: Callable[[dict[str, float]], None] | None = None,
) -> XAttnModel:
    """Trains a model by a recipe and saves it. The same seed, machine and threads give the same model.

    progress: pictures whose features are ready; on_step: each step's log entry.
    Raises DataError, ImageError, MissingExtra or CheckpointError.
    """
    dataset = read_dataset(places.data, "train", read_credited(places.credits))
    captioned = [picture for picture in dataset.pictures if picture.captions][: recipe.max_pictures]
    boxed = [picture for picture in dataset.pictures if not picture.captions][: recipe.max_pictures]
    dataset = replace(dataset, pictures=(*captioned, *boxed))
    torch.manual_seed(recipe.seed)
    model = untrained(recipe, dataset).to(device)
    vision, text = towers_of(model)
    if recipe.swaps:
        dataset = with_wrong_captions(dataset, text, recipe.seed)
    kept, pictures = split_off(dataset, recipe)
    features = cached_features(vision, dataset, recipe.views, places.cache, progress=progress)
    texts = dataset.texts
    table = text_table(text, texts)
    align(model, table, recipe.learned_share)
    rows = {name: row for row, name in enumerate(texts)}

    started = time.monotonic()
    places.log.parent.mkdir(parents=True, exist_ok=True)
    with places.log.open("w", encoding="utf-8") as file:

        def log(entry: dict[str, float]) -> None:
            _write(file, entry | {"seconds": round(time.monotonic() - started, 3)})
            if on_step is not None:
                on_step(entry)

        _write(file, {"recipe": asdict(recipe), "pictures": len(pictures), "texts": len(texts)})
        _learn(model, dataset, pictures, features, table, rows, recipe, log)
        model.eval()
        fill_banks(
            model,
            pictures,
            features,
            bank_size=recipe.bank_size,
            scale=recipe.bank_scale,
            seed=recipe.seed,
        )
        calibration = calibrate_on(model, kept, features, recipe)
        _write(file, {"calibration": asdict(calibration)})
    card = model_card(recipe, calibration, len(pictures), len(kept))
    save_model(model, places.out, card=card)
    if places.exact is not None:
        save_model(model, places.exact, card=card, quantized=False)
    return model


def _learn(
    model: XAttnModel,
    dataset: Dataset,
    pictures: Sequence[Picture],
    features: Sequence[ViewFeatures],
    table: Float[Tensor, "N W"],
    rows: Mapping[str, int],
    recipe: Recipe,
    log: OnStep,
) -> None:
    """First the pooled embedding and the text head, from teachers; then regions and attention.

    The latter in several runs from the same start, whose weights are averaged (model soups: Wortsman et al.
    2022): the runs err in different things, and one start keeps them near enough for a mean to make sense.
    """
    vision, text = towers_of(model)
    pooling, table = vision.fusion.pooling, table.to(model.device)
    summaries = summarise(pooling, pictures, features, model.device)
    teachers = train_teachers(vision.config.fusion, pictures, summaries, table, rows, recipe, log)
    asked = SummarySampler(pictures, summaries, rows, recipe, recipe.seed)
    distil(pooling, text.head, teachers, asked, table, recipe, log)
    boxed = [picture for picture in dataset.pictures if not picture.captions]
    start = _copied(model.state_dict())
    ends = []
    for number in range(recipe.runs):
        model.load_state_dict(start)
        torch.manual_seed(recipe.seed + number)
        objective = Objective(vision.fusion, text.head, model.attention, table, recipe).to(model.device)
        own = replace(recipe, seed=recipe.seed + SEEDS_APART * number)
        sampler = Sampler(dataset, [*pictures, *boxed], features, rows, own, model.device)
        # The copy is asked about captioned pictures only, which make fewer batches an epoch.
        rounds = math.ceil(recipe.epochs * sampler.steps_per_epoch / asked.steps_per_epoch)
        more = (batch for _, batch in asked.mixed(rounds))
        train(objective, sampler, more, teachers, recipe, partial(_log_run, log, number + 1))
        ends.append(_copied(model.state_dict()))
    model.load_state_dict({name: torch.stack([end[name] for end in ends]).mean(0) for name in start})


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}


def _log_run(log: OnStep, number: int, entry: dict[str, float]) -> None:
    log({"run": number} | entry)


def untrained(recipe: Recipe, dataset: Dataset) -> XAttnModel:
    """The recipe's model with its towers, the rest as initialised from torch's global seed."""
    fusion = FusionConfig(dim=recipe.dim, dropout=recipe.dropout)
    if recipe.random_towers:
        text = _random_text(recipe, dataset.texts)
        fusion = replace(fusion, text_width=text.config.width)
        vision = HybridEncoder(HybridConfig(fusion=fusion))
        names = torch.randn(fusion.num_classes, fusion.text_width)
        vision.fusion.class_names.copy_(F.normalize(names, dim=-1))
    else:
        text = load_text(SentenceConfig(dim=recipe.dim))
        vision = load_vision(HybridConfig(fusion=fusion), text)
    text.measure_centers(dataset.texts)
    text.head = TextHead(text.feature_width, recipe.dim, recipe.dropout)
    attention = CrossAttention(recipe.dim, recipe.attention_heads)
    return XAttnModel(vision, text, attention, Calibration(), name=recipe.name)


def _random_text(recipe: Recipe, texts: Sequence[str]) -> SentenceEncoder:
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    config = SentenceConfig(
        dim=recipe.dim, vocab_size=len(vocabulary), width=48, num_layers=1, num_heads=4, feedforward=96
    )
    return SentenceEncoder(config, tokenizer).eval()


def split_off(dataset: Dataset, recipe: Recipe) -> tuple[list[Picture], list[Picture]]:
    """(kept for calibration, to train on): the pictures with captions divided at random by the seed.

    Raises DataError unless two are kept, for a pair that does not match, and a batch is left.
    """
    pictures = [picture for picture in dataset.pictures if picture.captions]
    if recipe.held_out < 2 or len(pictures) < recipe.held_out + recipe.batch_size:
        raise DataError(
            f"{len(pictures)} pictures with captions; expected {max(2, recipe.held_out)} to calibrate on "
            f"(held_out) and at least {recipe.batch_size} to train on (batch_size): change these with --set"
        )
    kept = set(random.Random(recipe.seed).sample(range(len(pictures)), recipe.held_out))
    return (
        [picture for index, picture in enumerate(pictures) if index in kept],
        [picture for index, picture in enumerate(pictures) if index not in kept],
    )


@torch.inference_mode()
def fill_banks(
    model: XAttnModel,
    pictures: Sequence[Picture],
    features: Sequence[ViewFeatures],
    *,
    bank_size: int = 1000,
    scale: float = 10.0,
    seed: int = 0,
) -> None:
    """Gives the model its banks: some of the training pictures, whole, and one caption of each."""
    vision, _ = towers_of(model)
    rng = random.Random(seed)
    drawn = rng.sample(list(pictures), min(bank_size, len(pictures)))
    captions = model.encode_texts([rng.choice(picture.captions) for picture in drawn])
    pooled = []
    for start in range(0, len(drawn), BANK_BATCH):
        rows = [picture.row for picture in drawn[start : start + BANK_BATCH]]
        pooled.append(gather(features, [0] * len(rows), rows, model.device).fused(vision.fusion)[1])
    model.hubness = Hubness(model.dim, scale=scale).to(model.device)
    model.hubness.fill(captions, torch.cat(pooled))


def calibrate_on(
    model: XAttnModel, pictures: Sequence[Picture], features: Sequence[ViewFeatures], recipe: Recipe
) -> Calibration:
    """Calibrates on whole pictures and all their captions."""
    vision, _ = towers_of(model)
    given = gather(features, [0] * len(pictures), [picture.row for picture in pictures], model.device)
    with torch.inference_mode():
        regions, pooled = given.fused(vision.fusion)
    return calibrate(
        model,
        RegionGrid(regions, pooled, given.sizes),
        [picture.captions for picture in pictures],
        pooled_weight=recipe.pooled_weight,
        matched_share=recipe.matched_share,
    )


def _write(file: TextIO, entry: object) -> None:
    file.write(json.dumps(entry) + "\n")
    file.flush()
