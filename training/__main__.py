"""`python -m training --data DIR --data DIR --out DIR`: see `training`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from training.recipe import Recipe, smoke
from xattn.errors import TrainingStopped, XattnError

SAMPLES = Path(__file__).parents[1] / "data" / "samples" / "credits.json"
SHOWN_EVERY = 20
"""Steps."""


def train(
    data: Annotated[
        list[Path], typer.Option(metavar="DIR", help="A data set; may be given several times.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Model directory to write.")],
    work: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Features, checkpoint and log; else OUT-work.")
    ] = None,
    start: Annotated[
        str, typer.Option(metavar="MODEL", help="Model to begin with: a name or a directory.")
    ] = "default",
    leave_out: Annotated[
        Path, typer.Option(metavar="FILE", help="credits.json of the photos that are never trained on.")
    ] = SAMPLES,
    epochs: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop training after so long; the same command goes on.")
    ] = None,
    half: Annotated[bool, typer.Option(help="Run the trained tower blocks in bfloat16.")] = True,
    smoke_run: Annotated[
        bool, typer.Option("--smoke", help="A few photos and steps: does everything run?")
    ] = False,
) -> None:
    """Train the default model. Killed or stopped, the same command goes on from its last checkpoint."""
    from dataclasses import replace

    from training.run import Places, run  # torch takes seconds, `--help` should not
    from xattn.allocator import keep_freed_memory

    keep_freed_memory()
    recipe = Recipe() if epochs is None else replace(Recipe(), epochs=epochs)
    places = Places(tuple(data), start, leave_out, out, work or out.with_name(f"{out.name}-work"))
    places.work.mkdir(parents=True, exist_ok=True)
    try:
        run(
            smoke(recipe) if smoke_run else recipe,
            places,
            minutes=minutes,
            half=half,
            progress=_show_progress,
            on_step=_Steps(),
        )
    except TrainingStopped as stopped:
        print(f"{stopped}; the same command goes on", file=sys.stderr)
        raise typer.Exit(3) from None
    except XattnError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"saved in {out}")


def _show_progress(task: str, done: int, total: int) -> None:
    print(f"{task} {done}/{total}", flush=True)


class _Steps:
    """Prints the mean losses of every few steps."""

    def __init__(self) -> None:
        self._since: list[dict[str, float]] = []
        self._started = time.monotonic()

    def __call__(self, entry: dict[str, float]) -> None:
        self._since.append(entry)
        if len(self._since) == SHOWN_EVERY or entry["step"] == entry["steps"]:
            names = [name for name in entry if name not in ("step", "steps", "epoch")]
            means = [f"{name} {sum(e[name] for e in self._since) / len(self._since):.3f}" for name in names]
            seconds = time.monotonic() - self._started
            place = f"step {entry['step']:.0f}/{entry['steps']:.0f}"
            print(f"{place}: {', '.join(means)}, {seconds:.0f} s", flush=True)
            self._since.clear()


if __name__ == "__main__":
    typer.run(train)
