"""What a run comes to, for the person and on the model card."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from xattn.evaluation import Report
from xattn.training.data import OwnData
from xattn.training.prepare import Places
from xattn.training.settings import Settings
from xattn.training.validation import Validated
from xattn.types import Skipped


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


def card(settings: Settings, places: Places, data: OwnData, result: Result) -> str:
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
