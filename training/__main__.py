"""`python -m training RECIPE --data DIR --out DIR`: see `training`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from training.recipes import RECIPES, changed
from xattn.allocator import keep_freed_memory
from xattn.errors import XattnError
from xattn.types import Progress

SAMPLES = Path(__file__).parents[1] / "data" / "samples" / "credits.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a recipe from the command line; returns the exit status."""
    keep_freed_memory()
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    options = parser.parse_args(given)
    try:
        settings = dict(_setting(parser, text) for text in options.set)
        recipe = changed(RECIPES[options.recipe](options.smoke), settings)
        from training.run import Places, run  # torch takes seconds, `--help` should not

        places = Places(
            data=options.data,
            credits=options.leave_out,
            out=options.out,
            cache=options.cache or options.out.with_name(f"{options.out.name}-features"),
            log=options.log or options.out.with_name(f"{options.out.name}-log.jsonl"),
            exact=options.exact_out,
        )
        run(recipe, places, device=options.device, progress=_show_features(), on_step=_show_steps())
    except XattnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; features that were ready are kept", file=sys.stderr)
        return 130
    print(f"saved in {options.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m training", description="Train a model by a recipe.")
    parser.add_argument("recipe", choices=sorted(RECIPES), help="which model")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="directory with records.jsonl"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="model directory to write")
    parser.add_argument("--smoke", action="store_true", help="twelve pictures, random towers, seconds")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="features of pictures (OUT-features)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="JSON lines, one a step (OUT-log.jsonl)")
    parser.add_argument(
        "--leave-out", type=Path, default=SAMPLES, metavar="FILE", help="credits.json of the sample photos"
    )
    parser.add_argument(
        "--exact-out", type=Path, metavar="DIR", help="save the weights unrounded too, to compare"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change a number of the recipe"
    )
    return parser


def _setting(parser: argparse.ArgumentParser, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        parser.error(f"--set expects NAME=VALUE, got {text!r}")
    return name, value


def _show_features() -> Callable[[Progress], None]:
    started = time.monotonic()
    shown = started

    def show(progress: Progress) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown > 10 or progress.done == progress.total:
            shown = now
            print(f"features {progress.done}/{progress.total}, {now - started:.0f} s", flush=True)

    return show


def _show_steps() -> Callable[[dict[str, float]], None]:
    started = time.monotonic()
    epoch: list[dict[str, float]] = []

    def show(entry: dict[str, float]) -> None:
        if epoch and epoch[-1]["epoch"] != entry["epoch"]:
            epoch.clear()
        epoch.append(entry)
        if entry["step"] == entry["steps"] or len(epoch) % 10 == 0:
            means = [
                f"{name} {sum(e[name] for e in epoch) / len(epoch):.3f}"
                for name in ("loss", "attended", "boxes", "absent")
                if name in entry
            ]
            place = f"step {entry['step']}/{entry['steps']}, epoch {entry['epoch']}"
            part = f"teacher {entry['teacher']}, " if "teacher" in entry else ""
            part = "copy, " if "copy" in entry else part
            part = f"run {entry['run']}, " if "run" in entry else part
            print(f"{part}{place}: {', '.join(means)}, {time.monotonic() - started:.0f} s", flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main())
