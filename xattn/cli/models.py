"""Models listed, measured and exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from xattn.cli import progress, terminal
from xattn.cli.common import Json, ModelName, app
from xattn.cli.outputs import Force, check_file, check_model_directory
from xattn.errors import ModelNotFound
from xattn.files import write_text
from xattn.service import schemas


@app.command()
def evaluate(
    data: Annotated[
        str,
        typer.Option(metavar="PATH", help="Captioned pictures: folder, table, COCO, tar files, hf:NAME."),
    ],
    model: ModelName = "default",
    split: Annotated[str | None, typer.Option(help="The part of the data, such as dev.")] = None,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL2", help="Compare with a second model, case by case.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", help="Write every figure to this file, as JSON."),
    ] = None,
    as_json: Json = False,
    force: Force = False,
) -> None:
    """Measure a model on captioned pictures: retrieval, grounding, hard negatives, calibration."""
    if output is not None:
        check_file(output, "--output", force=force)
    with progress.loading(model, against or ""):
        from xattn import evaluation
        from xattn.model.checkpoint import load_model

        dataset = evaluation.load_dataset(data, split)
        first = load_model(model)
        second = None if against is None else load_model(against)
    with progress.Bar("encoding pictures") as bar:
        report = evaluation.evaluate(first, dataset, other=second, progress=bar.update)
    if as_json:
        terminal.print_json(json.loads(report.to_json()))
    elif terminal.is_interactive():
        terminal.out.print(report.table(), soft_wrap=False)
    else:
        typer.echo(report.markdown(), nl=False)
    if output is not None:  # after what was measured is shown: a full disk costs no figure
        write_text(output, report.to_json() + "\n")


@app.command()
def models(
    text: Annotated[str, typer.Argument(metavar="[TEXT]", help="List only names that hold this.")] = "",
    advised: Annotated[bool, typer.Option("--advised", help="List only those advised for maps.")] = False,
    as_json: Json = False,
) -> None:
    """List the open_clip models that --model takes. Nothing is downloaded before one is asked for.

    Maps: *advised*; *coarse*, fewer than 14 regions to a side; *weaker*, a large tower or a ResNet. The
    licence is that of the weights as far as known: check the model's own card.
    """
    with terminal.err.status("loading"):
        from xattn.encoders.openclip.listing import list_models

        listed = [model for model in list_models(text) if model.maps == "advised" or not advised]
    if as_json:
        terminal.print_json({"models": [schemas.model_record(model) for model in listed]})
    elif listed and terminal.is_interactive():
        terminal.print_models(listed)
    else:
        terminal.print_lines(map(terminal.model_fields, listed))
    if not listed:
        raise ModelNotFound(f"no model's name holds {text!r}; xattn models lists all")


@app.command()
def export(
    output: Annotated[
        Path,
        typer.Argument(metavar="OUT", file_okay=False, help="Directory for the model; made if absent."),
    ],
    model: ModelName = "default",
) -> None:
    """Save a model as a directory whose towers run by ONNX Runtime on a CPU.

    Give that directory as --model. It loads without a network, by torch where ONNX Runtime is not
    installed or a graphics card is used. Needs the extra *onnx*.
    """
    check_model_directory(output, "OUT")
    with progress.loading(model):
        from xattn.encoders.onnx.graphs import export_graphs
        from xattn.model.checkpoint import load_model, save_model

        loaded = load_model(model, device="cpu")
    with terminal.err.status("exporting"):
        save_model(loaded, output, card=f"# {model}\n\nSaved by `xattn export`; weights as published.\n")
        saved = load_model(output, device="cpu")  # with the weights as they were rounded
        export_graphs(saved.vision, saved.text, output)
    terminal.out.print(f"{output} holds {model}; use it with: --model {output}")
