"""A whole fine-tuning run: data, features, training, guard against forgetting, checkpoint, comparison."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.batches import gather, text_table
from training.calibrate import calibrate
from training.data import Dataset as Kept
from training.features import ViewFeatures, cached_features
from training.own.curves import draw_curves
from training.own.data import OwnData, kept_form, load_own, readable
from training.own.head import Batches, HeadObjective
from training.own.loop import Log, Loop
from training.own.mining import Embedded, Miner
from training.own.replay import General, joined_features, joined_pictures, load_general, plans
from training.own.settings import Settings, checked
from training.own.state import State, load_trained, trained_state
from training.own.validation import Validated, Validation
from training.run import fill_banks, towers_of
from xattn.checkpoint import load_model, save_model
from xattn.datasets import Dataset, Record, load_dataset
from xattn.encoders.text import SentenceEncoder
from xattn.encoders.vision import HybridEncoder
from xattn.errors import DataError
from xattn.evaluation import Report, evaluate
from xattn.model import XAttnModel
from xattn.types import Progress, RegionGrid, Skipped

SHARES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1)
"""Of the trained weights in the result, tried from the most to the least."""
REFERENCE_PICTURES = 500
EMBEDDED_AT_ONCE = 32


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
    model = load_model(places.model, device=device)
    if not isinstance(model.vision, HybridEncoder) or not isinstance(model.text, SentenceEncoder):
        raise DataError(f"{places.model} cannot be fine-tuned so far: its towers are not the default ones")
    data = load_own(places.data, settings, places.validate_on)
    places.work.mkdir(parents=True, exist_ok=True)
    prepared = _Prepared(model, data, settings, places, progress or _ignore)
    start = trained_state(prepared.objective)
    loop = Loop(
        prepared.objective,
        prepared.batches,
        prepared.validation,
        settings,
        places.work,
        _key(settings, prepared, model),
        on_entry,
    )
    if prepared.plan.group_size:
        loop.on_epoch = Miner(prepared.plan, prepared.embedded, settings, places.work, loop.key)
    state = loop.run()
    share, reference_note = _interpolated(prepared, start, state, settings)
    result = _result(prepared, state, share, reference_note)
    _calibrate(prepared, model)
    save_model(model, places.out, _card(settings, places, prepared.data, result), quantized=False)
    draw_curves(places.work / "log.jsonl", places.work / "curves.png")
    if compare:
        result = _compared(result, prepared, places, device, progress or _ignore)
        text = "\n".join(r.markdown() for r in (result.own, result.reference) if r is not None)
        (places.work / "before_after.md").write_text(text, encoding="utf-8")
    return result


class _Prepared:
    """Everything that needs the towers, done once."""

    def __init__(
        self,
        model: XAttnModel,
        data: OwnData,
        settings: Settings,
        places: Places,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self.model = model
        self.reference_data: Dataset | None = None
        if places.reference is not None:
            whole = load_dataset(places.reference, places.reference_split)
            captioned = tuple(r for r in whole.records if r.captions)[:REFERENCE_PICTURES]
            self.reference_data = replace(whole, records=captioned)
        self.data = _only_readable(data, progress)
        vision, text = towers_of(model)

        def features(kept: Kept, views: int, what: str) -> list[ViewFeatures]:
            def show(done: Progress) -> None:
                progress(what, done.done, done.total)

            return cached_features(vision, kept, views, places.work / "features", progress=show)

        self.general: General | None = None
        if places.replay is not None:
            self.general = load_general(places.replay, places.replay_split, settings)
            self.data = replace(self.data, skipped=(*self.data.skipped, *self.general.skipped))

        def keep(
            records: Sequence[Record], kind: str, views: int, what: str
        ) -> tuple[Kept, list[ViewFeatures]]:
            kept = kept_form(records, _named(kind, records))
            return kept, features(kept, views, f"reading {what}")

        train, train_features = keep(self.data.train, "train", settings.views, "pictures to train on")
        pictures = train.pictures
        held, held_features = keep(self.data.held_out, "held", 1, "held-out pictures")
        watched = None
        if self.general is not None:
            general, general_features = keep(self.general.train, "general", 1, "general pictures")
            pictures = joined_pictures(pictures, general.pictures)
            train_features = joined_features(train_features, general_features)
            watched = keep(self.general.apart, "apart", 1, "general pictures kept apart")
        elif self.reference_data is not None:
            watched = keep(self.reference_data.records, "reference", 1, "reference pictures")
        seen = (*pictures, *held.pictures, *(watched[0].pictures if watched else ()))
        texts = {caption for picture in seen for caption in picture.captions}
        rows = {caption: row for row, caption in enumerate(sorted(texts))}
        self.objective = HeadObjective(model, text_table(text, sorted(texts)), settings).to(model.device)
        self.objective.eval()
        self.text_rows = rows
        beta = model.calibration.pooled_weight
        self.plan, plan = plans(len(train.pictures), len(pictures) - len(train.pictures), settings)
        self.batches = Batches(pictures, train_features, rows, settings, model.device, plan)
        self.validation = Validation(held.pictures, held_features[0], rows, beta)
        self.watched = None
        if watched is not None:
            # Searched up to once for each of SHARES, so two captions a picture must do.
            few = [replace(picture, captions=picture.captions[:2]) for picture in watched[0].pictures]
            self.watched = Validation(few, watched[1][0], rows, beta)
        self.held, self.held_features = held, held_features[0]
        self.num_own = len(train.pictures)

    @torch.no_grad()
    def embedded(self) -> Embedded:
        """The own pictures, whole, and their captions, by the model as it is."""
        objective, pictures = self.objective, self.batches.pictures[: self.num_own]
        training = objective.training
        objective.eval()
        pooled = []
        for start in range(0, len(pictures), EMBEDDED_AT_ONCE):
            rows = [picture.row for picture in pictures[start : start + EMBEDDED_AT_ONCE]]
            given = gather(self.batches.features, [0] * len(rows), rows, self.model.device)
            pooled.append(given.fused(objective.fusion)[1])
        told = [(own, self.text_rows[text]) for own, p in enumerate(pictures) for text in p.captions]
        owners, rows = (torch.tensor(column) for column in zip(*told, strict=True))
        texts = objective.head(objective.table[rows.to(self.model.device)])
        objective.train(training)
        return torch.cat(pooled), texts, owners


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
    prepared: _Prepared, start: dict[str, Tensor], state: State, settings: Settings
) -> tuple[float, str | None]:
    """WiSE-FT (Wortsman et al. 2022): start + share · (trained - start), for the guard against forgetting.

    With pictures to watch, general ones kept apart or else the reference set: the largest share at which
    recall@1 on them falls by at most `max_forgetting`, or none. Without: 1 - `keep`. Returns the share, and
    a warning if the model forgot.
    """
    objective, model = prepared.objective, prepared.model
    first_banks = model.hubness

    def mix(share: float) -> None:
        mixed = {
            name: value + share * (state.best[name] - value) if share < 1 else state.best[name]
            for name, value in start.items()
        }
        load_trained(objective, mixed)
        # Of own and general pictures alike: what is typical is to hold for both.
        fill_banks(model, prepared.batches.pictures, prepared.batches.features, seed=settings.seed)

    if prepared.watched is None:
        mix(1 - settings.keep)
        return 1 - settings.keep, None
    mix(0.0)
    before = prepared.watched(objective, first_banks).recall_1
    lost = 0.0
    for share in SHARES:
        mix(share)
        lost = before - prepared.watched(objective, model.hubness).recall_1
        if lost <= settings.max_forgetting:
            note = f"trained weights enter with {share:.0%}: with more, recall@1 on general pictures fell"
            return share, note if share < 1 else None
    mix(0.0)
    model.hubness = first_banks
    return 0.0, f"the model forgets: even 10 % of the trained weights cost {lost:.1%} recall@1 elsewhere"


def _result(prepared: _Prepared, state: State, share: float, note: str | None) -> Result:
    before = Validated(**{k: v for k, v in state.history[0].items() if k in Validated.__slots__})
    after = prepared.validation(prepared.objective)
    warnings = [text for text in (state.stopped, note) if text is not None]
    if after.value <= before.value:
        warnings.append("training found nothing better than the starting model on the held-out pictures")
    return Result(before, after, share, state.step, tuple(warnings), prepared.data.skipped)


@torch.inference_mode()
def _calibrate(prepared: _Prepared, model: XAttnModel) -> None:
    """Probabilities anew, on the held-out pictures."""
    pictures = prepared.held.pictures
    rows = [picture.row for picture in pictures]
    given = gather([prepared.held_features], [0] * len(rows), rows, model.device)
    vision, _ = towers_of(model)
    regions, pooled = given.fused(vision.fusion)
    captions = [(b, caption) for b, picture in enumerate(pictures) for caption in picture.captions]
    own = [set(picture.captions) for picture in pictures]
    matched = torch.tensor([[caption in some for _, caption in captions] for some in own]).numpy()
    if matched.all():
        return
    calibrate(
        model,
        RegionGrid(regions, pooled, given.sizes),
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
        general=f"Each batch held {settings.replay_share:.0%} general pictures. " if places.replay else "",
        steps=result.steps,
        share=result.share,
        recalls=recalls,
        settings=rows,
    )


CARD = """\
# xattn: `{name}`, fine-tuned from `{start}`

On {num_train} captioned pictures of `{data}`, {steps} steps; {num_held} pictures held out, which early
stopping and calibration have seen. Fusion, text head and cross-attention were trained, the towers not.
{general}The trained weights make up {share:.0%} of the change (weights interpolated with the start's, WiSE-FT).

| text to image, held-out pictures | before | after |
|---|--:|--:|
{recalls}

    xattn train --data DIR --model {start} --out DIR

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
