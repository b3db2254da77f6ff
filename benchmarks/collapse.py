"""Does fine-tuning on 272 pictures with captions of one style collapse, and is a collapse noticed?

    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb stamps
    python -m benchmarks.collapse --stamps stamps

So few pictures, with one short caption each, are the case in which contrastive fine-tuning was seen to end
with one picture for every query. `xattn train` runs twice: as it is, and with a thousand times the learning
rate, which has to break the model and to be stopped. Told are the start, the end, and the worst on the way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from benchmarks.own_captions import stamps_with_captions
from benchmarks.record import RESULTS, Figure, OtherPrograms, Out, current_commit, keep, show
from xattn.training.settings import Settings

NUM_PICTURES = 272
FACTOR = 1000


def write_table(stamps: Path, path: Path) -> None:
    pairs = stamps_with_captions(stamps)[:NUM_PICTURES]
    if len(pairs) < NUM_PICTURES:
        sys.exit(f"{stamps} holds {len(pairs)} stamps with captions, expected {NUM_PICTURES}: see --help")
    rows = ({"image": str(picture.absolute()), "caption": caption} for picture, caption in pairs)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def train(
    table: Path, folder: Path, rate: float, threads: int, more: Sequence[str]
) -> list[dict[str, Any]]:
    """The log's validations. Features are kept in the folder from one run to the next."""
    command = [
        sys.executable,
        "-m",
        "training",
        "own",
        "--data",
        str(table),
        "--out",
        str(folder / "model"),
    ]
    command += ["--restart", "--no-comparison", "--learning-rate", str(rate), *more]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    lines = (folder / "model-run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if "recall_1" in entry]


def figures(name: str, validations: Sequence[dict[str, Any]], breaks: bool) -> list[Figure]:
    """breaks: what is expected of the run"""
    first, last = validations[0], validations[-1]
    fault = float("fault" in last)
    guard = f"{name}: stopped by the guard"
    return [
        Figure(guard, fault, at_least=1) if breaks else Figure(guard, fault, at_most=0),
        Figure(f"{name}: steps", last["step"]),
        Figure(f"{name}: held-out recall@5 before", 100 * first["recall_5"], "%"),
        Figure(f"{name}: held-out recall@5 at the end", 100 * last["recall_5"], "%"),
        Figure(f"{name}: held-out recall@5, lowest", 100 * min(v["recall_5"] for v in validations), "%"),
        Figure(f"{name}: mean rank before", 100 * first["mean_rank"], "% of the others"),
        Figure(f"{name}: mean rank at the end", 100 * last["mean_rank"], "% of the others"),
        Figure(f"{name}: one picture first, before", 100 * first["most_first"], "% of captions"),
        Figure(f"{name}: one picture first, at most", 100 * max(v["most_first"] for v in validations), "%"),
    ]


app = typer.Typer(add_completion=False)


@app.command(help=__doc__, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def main(
    context: typer.Context,
    stamps: Annotated[Path, typer.Option(metavar="DIR")] = Path("/usr/share/tuxpaint/stamps"),
    threads: int = 1,
    work: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep models and logs here.")] = None,
    out: Out = RESULTS,
) -> None:
    more = context.args
    commit, others = current_commit(), OtherPrograms()
    with TemporaryDirectory(prefix="collapse-") as scratch:
        folder = (work or Path(scratch)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        write_table(stamps, folder / "own.jsonl")
        rate = Settings().learning_rate
        runs = {
            name: train(folder / "own.jsonl", folder, some, threads, more)
            for name, some in (("as it is", rate), (f"rate × {FACTOR}", FACTOR * rate))
        }
    as_it_is, too_fast = runs.items()
    found = [*figures(*as_it_is, breaks=False), *figures(*too_fast, breaks=True)]
    busy = others.share()
    told = [validations[-1].get("stopped") for validations in runs.values()]
    setting = {"pictures": NUM_PICTURES, "rate": rate, "more": more, "told": told, "other_programs": busy}
    keep("collapse", {**setting, "figures": [figure.as_json() for figure in found]}, out, commit)
    show("collapse", found, busy)


if __name__ == "__main__":
    app()
