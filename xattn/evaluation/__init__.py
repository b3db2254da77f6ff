"""How good a model is: retrieval, grounding, hard negatives and calibration on one dataset.

report = evaluate(xattn.load_model(), load_dataset("coco_mix", "dev"))
print(report.markdown())
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from xattn.datasets import Dataset, HardNegative, NamedBox, Record, Statement, load_dataset
from xattn.errors import DataError
from xattn.evaluation.attributes import measure_colours, measure_presence
from xattn.evaluation.encoding import EncodedPictures
from xattn.evaluation.grounding import measure_grounding
from xattn.evaluation.measures import Measured, OnProgress, Settings
from xattn.evaluation.negatives import measure_hard_negatives
from xattn.evaluation.report import Figure, ModelName, Report, make_figures
from xattn.evaluation.search import measure_search
from xattn.model import XAttnModel
from xattn.types import Skipped

__all__ = [
    "Dataset",
    "Figure",
    "HardNegative",
    "NamedBox",
    "Record",
    "Report",
    "Settings",
    "Statement",
    "evaluate",
    "load_dataset",
]


def evaluate(
    model: XAttnModel,
    dataset: Dataset,
    *,
    other: XAttnModel | None = None,
    settings: Settings | None = None,
    progress: OnProgress | None = None,
) -> Report:
    """Measures what the dataset allows: captions → retrieval and match probability; boxes and phrases →
    grounding; hard negatives → accuracy.

    other:    a second model; every figure is then compared with its, by a paired test on the same cases
    progress: called with (what is being done, done, total)
    Pictures that cannot be read are left out and named in the report. Pictures are encoded once, to a
    temporary file of two bytes a number; memory stays bounded whatever the number of pictures.
    Raises DataError if no picture can be read or nothing can be measured.
    """
    settings = settings or Settings()
    watch = progress or _ignore
    measured, kept, skipped = _measure(model, dataset, settings, watch)
    compared = None if other is None else _measure(other, dataset, settings, watch)[0]
    if not measured:
        raise DataError(
            f"{dataset.name} has nothing to measure: expected captions, boxes, phrases or hard negatives, "
            f"found none for any of its {len(kept.records)} pictures."
        )
    return Report(
        dataset=dataset.name,
        split=dataset.split,
        num_pictures=len(kept.records),
        num_captions=sum(len(record.captions) for record in kept.records),
        model=ModelName(model.name, model.fingerprint),
        other=None if other is None else ModelName(other.name, other.fingerprint),
        settings=settings,
        figures=tuple(make_figures(measured, compared, settings)),
        skipped=skipped,
    )


def _measure(
    model: XAttnModel, dataset: Dataset, settings: Settings, progress: OnProgress
) -> tuple[list[Measured], Dataset, tuple[Skipped, ...]]:
    """The cases, the part of the dataset that could be read, and the rest."""

    def encoding(done: int, total: int) -> None:
        progress(f"encoding pictures with {model.name}", done, total)

    with EncodedPictures(model, [record.image for record in dataset.records], encoding) as encoded:
        if not len(encoded):
            raise DataError(
                f"None of the {len(dataset.records)} pictures of {dataset.name} can be read"
                + (f"; the first: {encoded.skipped[0].reason}" if encoded.skipped else ".")
            )
        kept = _only(dataset, encoded.kept)
        measured = [
            *measure_search(model, encoded, kept, settings, progress),
            *measure_grounding(model, encoded, kept, settings, progress),
            *measure_hard_negatives(model, encoded, kept, settings),
            *measure_colours(model, encoded, kept),
            *measure_presence(model, encoded, kept),
        ]
        # Pictures of archives are files in a cache; a person knows them by their names in the archive.
        label = {record.image: Path(record.label) for record in dataset.records}
        return measured, kept, tuple(Skipped(label[s.path], s.reason) for s in encoded.skipped)


def _only(dataset: Dataset, kept: list[int]) -> Dataset:
    records = tuple(dataset.records[i] for i in kept)
    known = {record.id for record in records}
    return replace(
        dataset,
        records=records,
        hard_negatives=tuple(entry for entry in dataset.hard_negatives if entry.record_id in known),
        statements=tuple(entry for entry in dataset.statements if entry.record_id in known),
    )


def _ignore(what: str, done: int, total: int) -> None:
    """Stands for a progress callback that was not given."""
