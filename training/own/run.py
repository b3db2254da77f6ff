"""A whole fine-tuning run: data, features, training, guard against forgetting, checkpoint, comparison."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.calibrate import calibrate
from training.own import modes, parallel
from training.own.curves import draw_curves
from training.own.data import OwnData, kept_form, load_own, readable
from training.own.loop import Log, Loop
from training.own.lora import merge_adapters
from training.own.mining import Embedded, Miner
from training.own.objective import Batches, Objective
from training.own.replay import General, load_general, plans
from training.own.settings import Settings, checked
from training.own.sources import Sources
from training.own.state import State
from training.own.validation import Validated, Validation
from xattn.checkpoint import load_model, save_model
from xattn.datasets import Dataset, Record, load_dataset
from xattn.errors import DataError
from xattn.evaluation import Report, evaluate
from xattn.hubness import Hubness
from xattn.model import XAttnModel
from xattn.types import RegionGrid, Skipped

SHARES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1)
"""Of the trained weights in the result, tried from the most to the least."""
REFERENCE_PICTURES = 500
BANK_SIZE = 1000


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


@dataclass(frozen=True, slots=True)
class Result:
    """before and after: on the held-out pictures; share: of the trained weights in the result.

    own, reference: the starting model is `other` in these reports; warnings: what a person should know
    """

    before: Validated
    after: Validated
    share: float
    steps: int
    warnings: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    own: Report | None = None
    reference: Report | None = None


def run(
    settings: Settings,
    places: Places,
    *,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
    on_entry: Log | None = None,
    compare: bool = True,
) -> Result:
    """Fine-tunes and saves. The same command, killed and repeated, gives the same model.

    progress: (what is being done, done, total); on_entry: each entry of the log; compare: evaluate the
    saved model beside the starting one
    Raises DataError, ImageError, CheckpointError or TrainingStopped.
    """
    checked(settings)
    with parallel.processes(device) as own_device:
        return _run(settings, places, own_device, progress or _ignore, on_entry, compare)


def _run(
    settings: Settings,
    places: Places,
    device: str,
    progress: Callable[[str, int, int], None],
    on_entry: Log | None,
    compare: bool,
) -> Result:
    if settings.shard and parallel.world() == 1:
        raise DataError("setting shard: expected several processes, as torchrun starts them, found one")
    model = load_model(places.model, device=device)
    modes.nets_of(model)  # before hours are spent: can it be trained at all?
    data = load_own(places.data, settings, places.validate_on)
    places.work.mkdir(parents=True, exist_ok=True)
    prepared = _Prepared(model, data, settings, places, progress)
    key = _key(settings, prepared, model)
    loop = Loop(
        prepared.objective,
        prepared.batches,
        prepared.validation,
        settings,
        places.work,
        key,
        on_entry,
    )
    if settings.hard_group:
        loop.on_epoch = Miner(prepared.plan, prepared.embedded, settings, places.work, key)
    state = loop.run()
    trained = prepared.finish()
    share, reference_note = _interpolated(prepared, trained, settings)
    result = _result(prepared, state, share, reference_note)
    if parallel.is_main():
        result = _finished(result, prepared, settings, places, device, progress, compare)
    return parallel.from_main(result)


def _finished(
    result: Result,
    prepared: _Prepared,
    settings: Settings,
    places: Places,
    device: str,
    progress: Callable[[str, int, int], None],
    compare: bool,
) -> Result:
    """What one process does at the end: calibration, checkpoint, comparison."""
    _calibrate(prepared)
    card = _card(settings, places, prepared.data, result)
    # Half precision for xattn's own towers, which six bits would cost what was learned; others as they are.
    quantized = False if modes.is_default(prepared.model) else None
    save_model(prepared.model, places.out, card, quantized=quantized)
    draw_curves(places.work / "log.jsonl", places.work / "curves.png")
    if compare:
        result = _compared(result, prepared, places, device, progress)
        text = "\n".join(r.markdown() for r in (result.own, result.reference) if r is not None)
        (places.work / "before_after.md").write_text(text, encoding="utf-8")
    return result


class _Prepared:
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
        self.data = parallel.from_main(_only_readable(data, progress) if parallel.is_main() else data)
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
        trained = {name: parallel.whole(p.detach()).cpu() for name, p in self.model.named_parameters()}
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


def _only_readable(data: OwnData, progress: Callable[[str, int, int], None]) -> OwnData:
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


def _key(settings: Settings, prepared: _Prepared, model: XAttnModel) -> str:
    """Of all that the result depends on."""
    # How often a run is saved changes nothing, so that it may differ when the run goes on.
    told = {k: v for k, v in asdict(settings).items() if k != "save_seconds"}
    data, general = prepared.data, prepared.general
    used = (*data.train, *data.held_out, *(general.train if general else ()))
    records = [[str(r.image), *r.captions] for r in used]
    digest = hashlib.blake2b(json.dumps([told, records]).encode(), digest_size=16)
    return f"{digest.hexdigest()}:{model.fingerprint}"


def _interpolated(
    prepared: _Prepared, trained: dict[str, Tensor], settings: Settings
) -> tuple[float, str | None]:
    """WiSE-FT (Wortsman et al. 2022): start + share · (trained - start), for the guard against forgetting.

    With pictures to watch, general ones kept apart or else the reference set: the largest share at which
    recall@1 on them falls by at most `max_forgetting`, or none. Without: 1 - `keep`. Leaves the model with
    these weights and banks; returns the share, and a warning if the model forgot. trained: those weights
    that differ from the start's.
    """
    model = prepared.model
    first_banks = model.hubness
    parameters = dict(prepared.model.named_parameters())

    @torch.no_grad()
    def mix(share: float) -> None:
        for name, value in trained.items():
            start = prepared.start[name]
            parameters[name].copy_(value if share == 1 else start + share * (value - start))
        _fill_banks(prepared, settings)

    if prepared.watched is None:
        mix(1 - settings.keep)
        return 1 - settings.keep, None
    mix(0.0)
    before = prepared.watched(prepared.objective, first_banks).recall_1
    lost = 0.0
    for share in SHARES:
        mix(share)
        lost = before - prepared.watched(prepared.objective, model.hubness).recall_1
        if lost <= settings.max_forgetting:
            note = f"trained weights enter with {share:.0%}: with more, recall@1 on general pictures fell"
            return share, note if share < 1 else None
    mix(0.0)
    model.hubness = first_banks
    return 0.0, f"the model forgets: even 10 % of the trained weights cost {lost:.1%} recall@1 elsewhere"


def _result(prepared: _Prepared, state: State, share: float, note: str | None) -> Result:
    before = Validated.of_record(state.history[0])
    after = prepared.validation(prepared.objective)
    warnings = [text for text in (state.stopped, note) if text is not None]
    if after.value <= before.value:
        warnings.append("training found nothing better than the starting model on the held-out pictures")
    return Result(before, after, share, state.step, tuple(warnings), prepared.data.skipped)


def _fill_banks(prepared: _Prepared, settings: Settings) -> None:
    """Renews the banks of a model that has them: some training pictures, whole, a caption of each; own and
    general ones alike, since what is typical is to hold for both."""
    model = prepared.model
    if not len(model.hubness.captions):
        return
    rng = random.Random(settings.seed)
    pictures = prepared.train.pictures
    drawn = rng.sample(pictures, min(BANK_SIZE, len(pictures)))
    captions = model.encode_texts([rng.choice(picture.captions) for picture in drawn])
    grids = prepared.train_pictures.grids([picture.row for picture in drawn])
    model.hubness = Hubness(model.dim, scale=model.hubness.scale).to(model.device)
    model.hubness.fill(captions, torch.cat([grid.pooled for grid in grids]))


@torch.inference_mode()
def _calibrate(prepared: _Prepared) -> None:
    """Probabilities anew, on the held-out pictures."""
    model, pictures = prepared.model, prepared.held.pictures
    captions = [(b, caption) for b, picture in enumerate(pictures) for caption in picture.captions]
    own = [set(picture.captions) for picture in pictures]
    matched = torch.tensor([[caption in some for _, caption in captions] for some in own]).numpy()
    if matched.all():
        return
    calibrate(
        model,
        RegionGrid.stack(list(prepared.held_pictures.grids([picture.row for picture in pictures]))),
        model.encode_texts([caption for _, caption in captions]),
        matched,
        pooled_weight=model.calibration.pooled_weight,
        matched_share=0.1,
    )


def _compared(
    result: Result,
    prepared: _Prepared,
    places: Places,
    device: str,
    progress: Callable[[str, int, int], None],
) -> Result:
    """The model as saved, read from disk again, beside the one that training began with."""
    new, old = load_model(places.out, device=device), load_model(places.model, device=device)
    own = evaluate(new, prepared.data.evaluation(), other=old, progress=progress)
    reference = None
    if prepared.reference_data is not None:
        reference = evaluate(new, prepared.reference_data, other=old, progress=progress)
    return replace(result, own=own, reference=reference)


def _card(settings: Settings, places: Places, data: OwnData, result: Result) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in asdict(settings).items())
    recalls = "\n".join(
        f"| recall@{k} | {getattr(result.before, f'recall_{k}'):.1%} "
        f"| {getattr(result.after, f'recall_{k}'):.1%} |"
        for k in (1, 5, 10)
    )
    return CARD.format(
        name=places.out.name,
        start=places.model,
        data=data.name,
        num_train=len(data.train),
        num_held=len(data.held_out),
        mode=settings.mode,
        general=f"Each batch held {settings.replay_share:.0%} general pictures. " if places.replay else "",
        steps=result.steps,
        share=result.share,
        recalls=recalls,
        settings=rows,
    )


CARD = """\
# xattn: `{name}`, fine-tuned from `{start}`

On {num_train} captioned pictures of `{data}`, {steps} steps; {num_held} pictures held out, which early
stopping and calibration have seen. Mode: {mode}. {general}
The trained weights make up {share:.0%} of the change (weights interpolated with the start's, WiSE-FT).

| text to image, held-out pictures | before | after |
|---|--:|--:|
{recalls}

    xattn train --data DIR --model {start} --mode {mode} --out DIR

| setting | value |
|---|---|
{settings}
"""


def restart(work: Path) -> None:
    """Forgets a run, not its features."""
    for name in ("state.pt", "log.jsonl", "curves.png", "before_after.md"):
        (work / name).unlink(missing_ok=True)
    for path in work.glob("mined-*.npy"):
        path.unlink()
    shutil.rmtree(work / "tmp", ignore_errors=True)


def _ignore(what: str, done: int, total: int) -> None:
    """Stands for a progress callback that was not given."""
