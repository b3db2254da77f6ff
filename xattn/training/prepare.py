"""What a run is made of before its first step: data, the model, and what trains and validates it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xattn.datasets import Dataset, Record, load_dataset
from xattn.errors import DataError
from xattn.model import XAttnModel
from xattn.model.checkpoint import load_model
from xattn.model.hubness import Hubness
from xattn.training import modes, parallel
from xattn.training.data import OwnData, kept_form, readable
from xattn.training.lora import merge_adapters
from xattn.training.mining import Embedded
from xattn.training.objective import Batches, Objective
from xattn.training.replay import General, load_general, plans
from xattn.training.settings import Settings
from xattn.training.sources import Sources
from xattn.training.validation import Validated, Validation

REFERENCE_PICTURES = 500


@dataclass(frozen=True, slots=True)
class Places:
    """data: any dataset that `xattn.datasets` reads; validate_on: its split for that; out: the model
    directory to write; work: features, checkpoint and log, reused by the same command; reference: a dataset
    whose recall must not fall by more than `max_forgetting`, and its split; replay: one to mix into every
    batch, on a part of which that is then watched instead, and its split."""

    data: Path | str
    out: Path
    work: Path
    model: str = "default"
    validate_on: str | None = None
    reference: Path | str | None = None
    reference_split: str | None = None
    replay: Path | str | None = None
    replay_split: str | None = None


class Prepared:
    """Data, and the model with what trains and validates it. `start`: its weights as they were."""

    def __init__(
        self,
        model: XAttnModel,
        data: OwnData,
        settings: Settings,
        places: Places,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self.settings, self.places, self.progress = settings, places, progress
        self.reference_data: Dataset | None = None
        if places.reference is not None:
            found = load_dataset(places.reference, places.reference_split)
            captioned = tuple(r for r in found.records if r.captions)[:REFERENCE_PICTURES]
            self.reference_data = replace(found, records=captioned)
        self.data = parallel.from_main(only_readable(data, progress) if parallel.is_main() else data)
        self.general: General | None = None
        if places.replay is not None:
            self.general = load_general(places.replay, places.replay_split, settings)
            self.data = replace(self.data, skipped=(*self.data.skipped, *self.general.skipped))
        self.start = {name: p.detach().cpu().clone() for name, p in model.named_parameters()}
        self._bind(model)
        modes.free(model, settings)
        if settings.compile:
            for block in (b for net in modes.nets_of(model) for b in modes.blocks_of(net)[0]):
                block.compile()
        if settings.shard:
            parallel.shard((model.vision, model.text))
        self.objective = Objective(model, self.train_pictures, self._texts, settings)
        self.objective.to(model.device).eval()

    def _bind(self, model: XAttnModel) -> None:
        """Everything that asks this very model for pictures and texts."""
        settings = self.settings
        self.model = model
        sources = Sources(model, settings, self.places.work / "features", self.progress)
        general: tuple[Record, ...] = ()
        watched = () if self.reference_data is None else self.reference_data.records
        if self.general is not None:
            general, watched = self.general.train, self.general.apart
        own, held = self.data.train, self.data.held_out
        train = (*own, *general)
        self.train = kept_form(train, _named("train", train))
        self.held = kept_form(held, _named("held", held))
        captions = {caption for record in (*train, *held, *watched) for caption in record.captions}
        self._texts = sources.texts(sorted(captions))
        self.train_pictures = sources.pictures(self.train, settings.views, "reading pictures to train on")
        self.held_pictures = sources.pictures(self.held, 1, "reading held-out pictures")
        live = settings.mode != "head"
        self.num_own = len(own)
        self.plan, plan = plans(len(own), len(general), settings)
        self.batches = Batches(self.train.pictures, settings, self.train_pictures.num_views, live, plan)
        smallest = len(self.train.pictures) // self.batches.per_epoch
        if smallest < parallel.world():
            raise DataError(f"a batch has {smallest} pictures, fewer than the {parallel.world()} processes")
        beta = model.calibration.pooled_weight
        self.validation = Validation(self.held.pictures, self.held_pictures, beta)
        self.watched: Callable[[Objective, Hubness], Validated] | None = None
        if watched:
            kept = kept_form(watched, _named("watched", watched))
            # Searched up to once for each of SHARES, so two captions a picture must do.
            few = [replace(picture, captions=picture.captions[:2]) for picture in kept.pictures]
            source = sources.pictures(kept, 1, "reading pictures to watch forgetting on")
            self.watched = Validation(few, source, beta)

    @torch.no_grad()
    def embedded(self) -> Embedded:
        """The own pictures, whole, and their captions, by the model as it is."""
        training = self.objective.training
        self.objective.eval()
        pictures = self.train.pictures[: self.num_own]
        pooled = [grid.pooled for grid in self.train_pictures.grids([p.row for p in pictures])]
        told = [(number, text) for number, p in enumerate(pictures) for text in p.captions]
        texts = self.objective.texts([text for _, text in told])
        self.objective.train(training)
        return torch.cat(pooled), texts, torch.tensor([number for number, _ in told])

    def finish(self) -> dict[str, Tensor]:
        """Makes the model an ordinary one again, and returns the weights it has come to."""
        merge_adapters(self.model)
        # Copies: `interpolated` writes into the very parameters.
        trained = {
            name: parallel.whole(p.detach()).cpu().clone() for name, p in self.model.named_parameters()
        }
        if self.settings.shard:
            self._bind(load_model(self.places.model, device=self.model.device))
            self.objective = Objective(self.model, self.train_pictures, self._texts, self.settings)
        self.model.requires_grad_(False)
        self.objective.eval()
        return {name: trained[name] for name, value in self.start.items() if not value.equal(trained[name])}


def _named(kind: str, records: Sequence[Any]) -> str:
    """A name for the features of these pictures: others are kept beside them, not refused."""
    digest = hashlib.blake2b(str([str(r.image) for r in records]).encode(), digest_size=4)
    return f"{kind}-{digest.hexdigest()}"


def only_readable(data: OwnData, progress: Callable[[str, int, int], None]) -> OwnData:
    train, broken = readable(data.train, lambda done, total: progress("checking pictures", done, total))
    held, broken_held = readable(data.held_out)
    if len(train) < 2 or len(held) < 2:
        raise DataError(f"only {len(train)} and {len(held)} pictures of {data.name} can be read")
    return replace(
        data,
        train=tuple(train),
        held_out=tuple(held),
        skipped=(*data.skipped, *broken, *broken_held),
    )
