"""`xattn train`: fine-tunes a model on captioned pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, arg

from xattn.cli import progress, terminal
from xattn.cli.common import app
from xattn.cli.outputs import check_model_directory
from xattn.errors import XattnError
from xattn.training.settings import Settings, checked, smoke


@dataclass(frozen=True, slots=True)
class Options:
    """What the command is given; each setting is an option, too."""

    data: Annotated[str, arg(metavar="PATH")]
    """pictures with captions, in any layout"""
    out: Annotated[Path, arg(metavar="DIR")]
    """model directory to write"""
    model: Annotated[str, arg(metavar="MODEL")] = "default"
    """model to start from: default, or a directory"""
    validate_on: Annotated[str | None, arg(metavar="SPLIT")] = None
    """split for validation; else one named val, dev or the like, or a tenth of the pictures"""
    replay: Annotated[str | None, arg(metavar="PATH")] = None
    """general dataset to mix in, against forgetting"""
    replay_split: Annotated[str | None, arg(metavar="SPLIT")] = None
    """split of it; else train, where there is one"""
    reference: Annotated[str | None, arg(metavar="PATH")] = None
    """dataset on which the model must stay good; compared at the end"""
    reference_split: Annotated[str | None, arg(metavar="SPLIT")] = None
    """split of it"""
    work: Annotated[Path | None, arg(metavar="DIR")] = None
    """features, checkpoint and log; else OUT-run"""
    device: str = "auto"
    """cpu or cuda; auto: a GPU if there is one"""
    track: Annotated[str | None, arg(metavar="PROJECT")] = None
    """project of trackio to log to, on this machine"""
    smoke: bool = False
    """a few pictures and steps: does everything work?"""
    restart: bool = False
    """begin anew, not from the checkpoint; features are kept"""
    no_comparison: bool = False
    """leave out the table of before and after"""
    settings: OmitArgPrefixes[Settings] = field(default_factory=Settings)


@app.command(
    add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def train(context: typer.Context) -> None:
    """Fine-tune a model on your own captioned pictures. `xattn train --help` tells more."""
    raise typer.Exit(main(context.args))


def main(arguments: Sequence[str], program: str = "xattn train") -> int:
    """Returns the exit status; a mistake in the command ends the program with 2."""
    options = parsed(arguments, program)
    work = options.work or options.out.with_name(f"{options.out.name}-run")
    try:
        _check_folders(options.out, work)
    except typer.BadParameter as mistake:
        terminal.err.print(f"xattn: {terminal.plain(mistake.message)}")
        return 2
    try:
        settings = checked(options.settings)
        from xattn.training import parallel  # torch takes seconds, `--help` should not
        from xattn.training.prepare import Places
        from xattn.training.run import restart, run
        from xattn.training.tracking import tracking

        places = Places(
            data=options.data,
            out=options.out,
            work=work,
            model=options.model,
            validate_on=options.validate_on,
            reference=options.reference,
            reference_split=options.reference_split,
            replay=options.replay,
            replay_split=options.replay_split,
        )
        speaks = parallel.speaks()
        project = options.track if speaks else None
        if options.restart and speaks:
            restart(places.work)
        with (
            progress.Bar("reading", unit="pictures", at_once=False) as bar,
            tracking(project, options.out.name, settings, _shown(bar)) as on_entry,
        ):
            result = run(
                settings,
                places,
                device=_device(options.device),
                progress=bar.update if speaks else None,
                on_entry=on_entry if speaks else None,
                compare=not options.no_comparison,
            )
    except XattnError as error:
        terminal.err.print(f"xattn: {terminal.plain(error)}")
        return 1
    except KeyboardInterrupt:
        terminal.err.print("Stopped. The same command goes on from the last checkpoint.")
        return 130
    if speaks:
        _show_result(result, places.out, places.work)
    return 0


def _device(name: str) -> str:
    import torch

    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _check_folders(out: Path, work: Path) -> None:
    """Before the work: neither folder is a person's own. Raises typer.BadParameter."""
    check_model_directory(out, "--out")
    names = {path.name for path in work.iterdir()} if work.is_dir() else set()
    if names and not names & {"features", "state.pt"}:
        raise typer.BadParameter(
            f"{work} holds {sorted(names)[0]!r} and is no folder of an earlier run; it is left as it is. "
            "Name another with --work"
        )


def parsed(arguments: Sequence[str], program: str = "xattn train") -> Options:
    """Names are those of the fields, with - or _; near ones are told of one that does not exist."""
    given = list(_set_as_options(arguments))
    settings = smoke(Settings()) if "--smoke" in given else Settings()
    missing: Any = tyro.MISSING
    return tyro.cli(
        Options,
        prog=program,
        description="Fine-tune a model on your own captioned pictures. Killed, the same command goes on.",
        args=given,
        default=Options(data=missing, out=missing, settings=settings),
        config=(FlagCreatePairsOff,),
    )


def _set_as_options(arguments: Sequence[str]) -> Iterator[str]:
    """`--set NAME=VALUE`, as in `python -m training`, is `--NAME=VALUE`."""
    rest = iter(arguments)
    for argument in rest:
        if argument != "--set":
            yield argument
            continue
        name, _, value = next(rest, "").partition("=")
        if value.lower() != "false":  # flags are off already
            yield f"--{name}" if value.lower() == "true" else f"--{name}={value}"


def _shown(bar: progress.Bar) -> Callable[[dict[str, Any]], None]:
    """Moves the bar, and prints each validation."""
    size = 0  # of a batch; they differ by one or two, and a bar must not go back for that

    def show(entry: dict[str, Any]) -> None:
        nonlocal size
        if "recall_1" in entry:
            shares = ", ".join(f"@{k} {entry[f'recall_{k}']:.1%}" for k in (1, 5, 10))
            terminal.err.print(f"step {entry['step']} of {entry['steps']}: held-out recall {shares}")
            bar.note = f"held-out recall@5 {entry['recall_5']:.1%}"
            return
        size = size or entry["pictures"]
        bar.update("training", entry["step"] * size, entry["steps"] * size)

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
    terminal.out.print(f"Use it: xattn index ~/Pictures --model {out} --index {out}-index")
