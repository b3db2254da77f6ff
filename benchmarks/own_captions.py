"""Does fine-tuning on 500 own pictures pay within minutes, and does the model stay good elsewhere?

    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb stamps
    python -m benchmarks.own_captions --stamps stamps --general coco_mix

The own pictures are the stamps with captions of that Debian package, drawings and photos of single things
(nothing of it is in this repository). 500 of them, drawn by a hash of their names, are what a person has;
`xattn train` holds out a tenth of these itself. The others are the test, which no run sees. --general is a
folder with records.jsonl: its split "train" is mixed into the batches, its split "dev" tells what was
forgotten. Time is from the command to the saved checkpoint, features of all pictures included; processor
time, of all cores together, is what to go by where other programs run too.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from benchmarks.record import RESULTS, Figure, OtherPrograms, Out, about, current_commit, keep, show
from xattn.datasets import Dataset, load_dataset
from xattn.evaluation import Report, Settings, evaluate
from xattn.model.checkpoint import load_model

NUM_OWN = 500
WHOLE = ("text → image", "two-stage")


def stamps_with_captions(folder: Path) -> list[tuple[Path, str]]:
    """(picture, English caption: the first line of the text beside it), by the hash of the path."""
    found = []
    for picture in folder.rglob("*.png"):
        text = picture.with_suffix(".txt")
        if text.is_file():
            name = picture.relative_to(folder).as_posix()
            order = hashlib.blake2b(name.split("stamps/")[-1].encode(), digest_size=8).digest()
            found.append((order, picture, text.read_text(encoding="utf-8").splitlines()[0].strip()))
    return [(picture, caption) for _, picture, caption in sorted(found)]


def write_tables(stamps: Path, folder: Path) -> tuple[Path, Path]:
    """(own pictures, test), as tables that `xattn train` and `xattn evaluate` read."""
    pairs = stamps_with_captions(stamps)
    if len(pairs) < NUM_OWN + 100:
        sys.exit(f"{stamps} holds {len(pairs)} stamps with captions, expected 785: see --help")
    paths = folder / "own.jsonl", folder / "test.jsonl"
    for path, part in zip(paths, (pairs[:NUM_OWN], pairs[NUM_OWN:]), strict=True):
        rows = ({"image": str(picture.absolute()), "caption": caption} for picture, caption in part)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return paths


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds from the command to the checkpoint: of the clock, and of all processors together."""

    clock: float
    processor: float


def train(own: Path, general: Path, out: Path, threads: int, more: Sequence[str]) -> Taken:
    command = [sys.executable, "-m", "training", "own", "--data", str(own), "--out", str(out)]
    command += ["--replay", str(general), "--no-comparison", *more]
    started, before = time.monotonic(), _children()
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    return Taken(time.monotonic() - started, _children() - before)


def _children() -> float:
    """Processor seconds of the programs that this one has started and that have ended."""
    return os.times().children_user + os.times().children_system


def recalls(report: Report, name: str) -> dict[str, Any]:
    """Shares before and after, and the interval of the difference."""
    figure = report.figure(WHOLE[0], name, WHOLE[1])
    assert figure.other is not None
    assert figure.difference is not None
    return {"before": figure.other.value, "after": figure.value.value, "difference": figure.difference}


def figures(taken: Mapping[int, Taken], own: Report, general: Report) -> list[Figure]:
    """taken: by the number of threads"""
    five, one = recalls(own, "recall@5"), recalls(general, "recall@1")
    low, high = (100 * value for value in one["difference"][1:3])
    found = []
    for threads, time_taken in taken.items():
        name = f"command to checkpoint, {threads} thread{'s' * (threads > 1)}"
        # The aim is for two cores.
        found += [
            Figure(name, time_taken.clock / 60, "min", at_most=10 if threads == 2 else None),
            Figure(f"{name}, processor time", time_taken.processor / 60, "min"),
        ]
    return [
        *found,
        Figure("test recall@5 before", 100 * five["before"], "%"),
        Figure("test recall@5 after", 100 * five["after"], "%"),
        Figure("test recall@5, after / before", five["after"] / five["before"], "×", at_least=2),
        Figure("general recall@1 before", 100 * one["before"], "%"),
        Figure("general recall@1 after", 100 * one["after"], "%"),
        Figure("general recall@1 lost", 100 * (one["before"] - one["after"]), "points", at_most=2),
        Figure("general recall@1 lost, low end of 95 %", -high, "points"),
        Figure("general recall@1 lost, high end of 95 %", -low, "points"),
    ]


def captioned(dataset: Dataset) -> Dataset:
    return Dataset(dataset.name, dataset.split, tuple(r for r in dataset.records if r.captions))


app = typer.Typer(add_completion=False)


@app.command(help=__doc__, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def main(
    context: typer.Context,
    general: Annotated[Path, typer.Option(metavar="DIR", help="Pictures with captions of all kinds.")],
    stamps: Annotated[Path, typer.Option(metavar="DIR")] = Path("/usr/share/tuxpaint/stamps"),
    threads: Annotated[list[int], typer.Option(help="A run for each.")] = [2, 1],  # noqa: B006  never changed
    work: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep models and logs here.")] = None,
    out: Out = RESULTS,
) -> None:
    more = context.args
    commit, others = current_commit(), OtherPrograms()
    with TemporaryDirectory(prefix="own-captions-") as scratch:
        folder = (work or Path(scratch)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        own, test = write_tables(stamps, folder)
        taken = {
            number: train(own, general, folder / f"model-{number}", number, more) for number in threads
        }
        busy = others.share()
        start, new = (
            load_model(device="cpu"),
            load_model(folder / f"model-{threads[0]}", device="cpu"),
        )
        quick = Settings()
        tested = evaluate(new, load_dataset(test), other=start, settings=quick)
        tested_general = evaluate(new, captioned(load_dataset(general, "dev")), other=start, settings=quick)
    found = figures(taken, tested, tested_general)
    setting = {
        "start": about(start),
        "own": NUM_OWN,
        "test": tested.num_pictures,
        "general": tested_general.num_pictures,
        "more": more,
        "other_programs": busy,
    }
    listed = [figure.as_json() for figure in found]
    keep("own_captions", {**setting, "figures": listed}, out, commit)
    show("own_captions", found, busy)


if __name__ == "__main__":
    app()
