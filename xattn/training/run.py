"""A whole fine-tuning run: data, features, training, guard against forgetting, checkpoint, comparison."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from xattn.errors import DataError
from xattn.evaluation import evaluate
from xattn.model.checkpoint import load_model, save_model
from xattn.training import modes, parallel
from xattn.training.calibrate import calibrate
from xattn.training.checkpoints import State
from xattn.training.curves import draw_curves
from xattn.training.data import load_own
from xattn.training.forgetting import interpolated
from xattn.training.loop import Log, Loop
from xattn.training.mining import Miner
from xattn.training.prepare import Places, Prepared
from xattn.training.result import Result, card
from xattn.training.settings import Settings, checked
from xattn.training.validation import Validated
from xattn.types import RegionGrid


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
    start = model.fingerprint  # before adapters are added and weights are spread over processes
    data = load_own(places.data, settings, places.validate_on)
    places.work.mkdir(parents=True, exist_ok=True)
    prepared = Prepared(model, data, settings, places, progress)
    key = _key(settings, prepared, start)
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
    share, note = interpolated(prepared, trained, settings)
    result = _result(prepared, state, share, note)
    if parallel.is_main():
        result = _finished(result, prepared, settings, places, device, progress, compare)
    return parallel.from_main(result)


def _finished(
    result: Result,
    prepared: Prepared,
    settings: Settings,
    places: Places,
    device: str,
    progress: Callable[[str, int, int], None],
    compare: bool,
) -> Result:
    """What one process does at the end: calibration, checkpoint, comparison."""
    _calibrate(prepared)
    told = card(settings, places, prepared.data, result)
    # Half precision for xattn's own towers, which six bits would cost what was learned; others as they are.
    quantized = False if modes.is_default(prepared.model) else None
    save_model(prepared.model, places.out, told, quantized=quantized)
    draw_curves(places.work / "log.jsonl", places.work / "curves.png")
    if compare:
        result = _compared(result, prepared, places, device, progress)
        text = "\n".join(r.markdown() for r in (result.own, result.reference) if r is not None)
        (places.work / "before_after.md").write_text(text, encoding="utf-8")
    return result


def _key(settings: Settings, prepared: Prepared, start: str) -> str:
    """Of all that the result depends on. start: fingerprint of the model before training."""
    # How often a run is saved changes nothing, so that it may differ when the run goes on.
    told = {k: v for k, v in asdict(settings).items() if k != "save_seconds"}
    data, general = prepared.data, prepared.general
    used = (*data.train, *data.held_out, *(general.train if general else ()))
    records = [[str(r.image), *r.captions] for r in used]
    described = json.dumps([told, records, asdict(prepared.model.calibration)])
    digest = hashlib.blake2b(described.encode(), digest_size=16)
    return f"{digest.hexdigest()}:{start}"


def _result(prepared: Prepared, state: State, share: float, note: str | None) -> Result:
    before = Validated.of_record(state.history[0])
    after = prepared.validation(prepared.objective)
    warnings = [text for text in (state.stopped, note) if text is not None]
    if after.value <= before.value:
        warnings.append("training found nothing better than the starting model on the held-out pictures")
    return Result(before, after, share, state.step, tuple(warnings), prepared.data.skipped)


def _calibrate(prepared: Prepared) -> None:
    """Probabilities anew, on the held-out pictures."""
    model, pictures = prepared.model, prepared.held.pictures
    calibrate(
        model,
        RegionGrid.stack(list(prepared.held_pictures.grids([picture.row for picture in pictures]))),
        [picture.captions for picture in pictures],
        pooled_weight=model.calibration.pooled_weight,
        matched_share=0.1,
    )


def _compared(
    result: Result,
    prepared: Prepared,
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


def restart(work: Path) -> None:
    """Forgets a run, not its features."""
    for name in ("state.pt", "log.jsonl", "curves.png", "before_after.md"):
        (work / name).unlink(missing_ok=True)
    for path in work.glob("mined-*.npy"):
        path.unlink()
    shutil.rmtree(work / "tmp", ignore_errors=True)


def _ignore(what: str, done: int, total: int) -> None:
    """Stands for a progress callback that was not given."""
