"""`xattn train` and `python -m training own`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.own.settings import MODES, Settings, changed, smoke
from xattn import terminal
from xattn.errors import XattnError


def main(arguments: Sequence[str], program: str = "xattn train") -> int:
    """Returns the exit status."""
    parser = _parser(program)
    options = parser.parse_args(arguments)
    try:
        settings = smoke(Settings()) if options.smoke else Settings()
        settings = replace(settings, mode=options.mode)
        settings = changed(settings, dict(_setting(parser, text) for text in options.set))
        from training.own.run import Places, restart, run  # torch takes seconds, `--help` should not

        places = Places(
            data=options.data,
            out=options.out,
            work=options.work or options.out.with_name(f"{options.out.name}-run"),
            model=options.model,
            validate_on=options.validate_on,
            reference=options.reference,
            reference_split=options.reference_split,
        )
        if options.restart:
            restart(places.work)
        with terminal.Bar("reading", unit="pictures") as bar:
            result = run(
                settings,
                places,
                device=options.device,
                progress=bar.update,
                on_entry=_shown(bar),
                compare=not options.no_comparison,
            )
    except XattnError as error:
        terminal.err.print(f"xattn: {terminal.plain(error)}")
        return 1
    except KeyboardInterrupt:
        terminal.err.print("Stopped. The same command goes on from the last checkpoint.")
        return 130
    _show_result(result, places.out, places.work)
    return 0


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        program, description="Fine-tune a model on your own captioned pictures. Killed, it goes on."
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="PATH", help="pictures with captions, in any layout")
    add("--out", type=Path, required=True, metavar="DIR", help="model directory to write")
    add("--model", default="default", help="model to start from: default, or a directory (%(default)s)")
    add("--mode", default="head", choices=MODES, help="what is trained: %(choices)s (%(default)s)")
    add("--validate-on", metavar="SPLIT", help="split for validation (one named val, dev or the like)")
    add("--reference", type=Path, metavar="PATH", help="dataset on which the model must stay good")
    add("--reference-split", metavar="SPLIT")
    add("--work", type=Path, metavar="DIR", help="features, checkpoint and log (OUT-run)")
    add("--device", default="cpu", help="cpu or cuda (%(default)s)")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting")
    add("--smoke", action="store_true", help="a few pictures and steps: does everything work?")
    add("--restart", action="store_true", help="begin anew, not from the checkpoint; features are kept")
    add("--no-comparison", action="store_true", help="leave out the table of before and after")
    return parser


def _setting(parser: argparse.ArgumentParser, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        parser.error(f"--set expects NAME=VALUE, got {text!r}")
    return name, value


def _shown(bar: terminal.Bar) -> Callable[[dict[str, Any]], None]:
    """Moves the bar, and prints each validation."""
    seen = 0

    def show(entry: dict[str, Any]) -> None:
        nonlocal seen
        if "recall_1" in entry:
            shares = ", ".join(f"@{k} {entry[f'recall_{k}']:.1%}" for k in (1, 5, 10))
            terminal.err.print(f"step {entry['step']}/{entry['steps']}: held-out recall {shares}")
            return
        seen += entry["pictures"]
        total = seen + (entry["steps"] - entry["step"]) * entry["pictures"]
        bar.update("training", seen, total)

    return show


def _show_result(result: Any, out: Path, work: Path) -> None:
    for skipped in result.skipped:
        terminal.err.print(f"left out {terminal.plain(skipped.path)}: {skipped.reason}")
    for report in (result.own, result.reference):
        if report is not None and terminal.is_interactive():
            terminal.out.print(report.table(), soft_wrap=False)
        elif report is not None:
            sys.stdout.write(report.markdown())
    for warning in result.warnings:
        terminal.err.print(f"note: {warning}")
    before, after = result.before, result.after
    terminal.out.print(
        f"held-out recall@1/5/10: {before.recall_1:.1%} / {before.recall_5:.1%} / {before.recall_10:.1%} "
        f"before, {after.recall_1:.1%} / {after.recall_5:.1%} / {after.recall_10:.1%} after"
    )
    terminal.out.print(f"saved in {out}; log, curves and checkpoint in {work}")
