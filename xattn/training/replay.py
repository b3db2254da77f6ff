"""General pictures mixed into every batch, so that a model learns the new ones without losing the old.

Rehearsal (Robins 1995), as experience replay (Chaudhry et al. 2019) uses it: a part of each batch is drawn
from a dataset like those that the model was made with. A part of that dataset is kept out of training: on
it the share of trained weights is chosen (WiSE-FT), so that the reference set stays unseen until the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xattn.datasets import Record, read_dataset, splits_of
from xattn.errors import DataError
from xattn.training.data import TRAIN, readable, unread, usable, withheld
from xattn.training.mining import Hard
from xattn.training.sampling import Mixed, Plan, Shuffled
from xattn.training.settings import Settings
from xattn.types import Skipped

FEWEST = 8
"""Pictures, in either part."""


@dataclass(frozen=True, slots=True)
class General:
    """train: to be mixed in; apart: on which forgetting is measured; skipped: left out, and why."""

    train: tuple[Record, ...]
    apart: tuple[Record, ...]
    skipped: tuple[Skipped, ...]


def load_general(path: Path | str, split: str | None, settings: Settings) -> General:
    """As many pictures as the settings ask for, chosen by a hash of their names: always the same ones.

    split: by default "train", where there is one. Raises DataError if too few can be used.
    """
    if split is None and TRAIN in splits_of(path):
        split = TRAIN
    dataset = read_dataset(path, split)
    skipped = unread(dataset)
    records = [record for record in dataset.records if record.captions]
    if settings.max_pictures:
        records = records[: 2 * settings.max_pictures]
    wanted = settings.max_replay + settings.replay_apart
    if len(records) > wanted:
        records = withheld(records, wanted, settings.seed)[0]
    found, broken = readable(usable(records, skipped))
    apart, train = withheld(found, min(settings.replay_apart, len(found) // 2), settings.seed)
    if min(len(train), len(apart)) < FEWEST:
        raise DataError(
            f"{path} has {len(train)} captioned pictures to mix in and {len(apart)} to keep apart; "
            f"expected at least {FEWEST} of each. `xattn data check {path}` tells what was found."
        )
    return General(tuple(train), tuple(apart), (*skipped, *broken))


def plans(num_own: int, num_general: int, settings: Settings) -> tuple[Hard, Plan]:
    """(for the own pictures, for own and general ones): `replay_share` of each batch is general."""
    general_size = round(settings.replay_share * settings.batch_size) if num_general else 0
    own = Hard(num_own, settings, max(2, settings.batch_size - general_size))
    if not general_size:
        return own, own
    return own, Mixed(own, Shuffled(num_general, general_size, settings.seed), num_own)
