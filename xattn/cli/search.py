"""Pictures made findable, found, shown and taken out again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xattn.cli import progress, terminal
from xattn.cli.common import (
    DEFAULT_INDEX,
    IndexDir,
    Json,
    ModelName,
    Text,
    app,
    existing,
    opened,
)
from xattn.cli.outputs import Force, check_file, check_folder, free_name
from xattn.errors import ImageError
from xattn.files import replacing
from xattn.service import schemas

if TYPE_CHECKING:
    from xattn.types import Grounding, Hit, Progress

OVERLAY_SIDE = 1024
"""Overlays are as large as their pictures, but no larger than this on the long side."""
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
INTERRUPTED = 130  # what shells report for Ctrl+C


@app.command()
def index(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="DIR", exists=True, help="Folders, with all below them, or picture files."),
    ],
    index_dir: IndexDir = DEFAULT_INDEX,
    model: ModelName = "default",
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures of more pixels are refused; by default 128 million."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures that are encoded together; by default what suits the device."),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove pictures whose whole folder is not there, too.")
    ] = False,
    reread: Annotated[
        bool, typer.Option("--reread", help="Read every file again, also those with unchanged dates.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make pictures findable, or bring the index up to date with them.

    Only what is new or changed is encoded. An interrupted run loses a few seconds of work at most: give
    the same command again. Pictures out of reach, as on a drive that is not mounted, stay in the index.
    """
    with opened(index_dir, model, create=True) as engine:
        from xattn import images

        try:
            with progress.Bar("looking for pictures", unit="pictures") as bar:

                def show(progress: Progress) -> None:
                    bar.update("indexing", progress.done, progress.total)

                report = engine.add(
                    paths,
                    progress=show,
                    batch_size=batch_size,
                    max_pixels=images.MAX_PIXELS if max_pixels is None else max_pixels,
                    prune=prune,
                    reread=reread,
                )
        except KeyboardInterrupt:
            terminal.err.print(f"Interrupted; {len(engine)} pictures can be found so far.")
            raise typer.Exit(INTERRUPTED) from None
        if as_json:
            terminal.print_json(schemas.add_record(report, len(engine)))
        else:
            terminal.print_report(report, len(engine), engine.index_dir)


@app.command()
def search(
    text: Text,
    k: Annotated[int, typer.Option("-k", min=1, help="How many pictures to return.")] = 12,
    index_dir: IndexDir = DEFAULT_INDEX,
    model: ModelName = "default",
    as_json: Json = False,
    save_overlays: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Save each result with its map in this folder."),
    ] = None,
) -> None:
    """Find the pictures that match a text best.

    Piped, each line has rank, probability, score and path, with tabs between them.
    """
    if save_overlays is not None:
        save_overlays.mkdir(parents=True, exist_ok=True)
        check_folder(save_overlays, "--save-overlays")
    with opened(index_dir, model) as engine:
        hits = engine.search(text, k)
        if len(engine) == 0:
            terminal.err.print("The index is empty. Add pictures with: xattn index DIR")
        elif hits[0].probability < (least := engine.model.calibration.nothing_below):
            terminal.err.print(
                f"Probably nothing found: a find has {least:.0%} or more, the best of these "
                f"{hits[0].probability:.0%}."
            )
    if as_json:
        terminal.print_json({"query": text, "hits": [schemas.hit_record(hit) for hit in hits]})
    elif terminal.is_interactive():
        terminal.print_hits(hits)
    else:
        terminal.print_lines(map(terminal.hit_fields, hits))
    if save_overlays is not None:
        _save_overlays(hits, save_overlays)


@app.command()
def ground(
    image: Annotated[
        Path,
        typer.Argument(metavar="IMAGE", exists=True, dir_okay=False, help="A picture, indexed or not."),
    ],
    text: Text,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT", help="Save the picture with the maps here."),
    ] = None,
    model: ModelName = "default",
    as_json: Json = False,
    force: Force = False,
) -> None:
    """Show where in a picture a text and each of its phrases are found.

    Boxes are x1, y1, x2, y2 in pixels of the upright picture. Piped, each line has phrase, probability,
    score and strongest box, with tabs between them.
    """
    if output is not None:
        _check_output(output, image, force)
    with progress.loading(model):
        from xattn.engine import ground as ground_text
        from xattn.model.checkpoint import load_model

        loaded = load_model(model)
    groundings = ground_text(image, text, loaded)
    if output is not None:
        _save_overlay(image, groundings[1:] or groundings, output)
    if as_json:
        found = [schemas.grounding_record(grounding) for grounding in groundings]
        terminal.print_json({"query": text, "path": os.fspath(image.absolute()), "groundings": found})
    elif terminal.is_interactive():
        terminal.print_groundings(groundings)
    else:
        terminal.print_lines(map(terminal.grounding_fields, groundings))


@app.command()
def info(index_dir: IndexDir = DEFAULT_INDEX, as_json: Json = False) -> None:
    """Tell where the index is and what it holds. No model is needed."""
    from xattn.engine.maintenance import index_info

    found = index_info(existing(index_dir))
    if as_json:
        terminal.print_json(schemas.info_record(found))
    else:
        terminal.print_info(found)


@app.command()
def remove(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Picture files, or folders with all below them.")
    ],
    index_dir: IndexDir = DEFAULT_INDEX,
    as_json: Json = False,
) -> None:
    """Take pictures out of the index. The files stay as they are, and no model is needed."""
    from xattn.engine.maintenance import remove_pictures

    removed, remaining = remove_pictures(existing(index_dir), paths)
    if as_json:
        terminal.print_json(schemas.remove_record(removed, remaining))
    else:
        terminal.out.print(f"{len(removed)} removed, {remaining} pictures remain in the index")


@app.command()
def serve(
    index_dir: IndexDir = DEFAULT_INDEX,
    model: ModelName = "default",
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this one open the page to the network.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, show_default="the first free one from 7860 on", help="Port to listen on."
        ),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open-browser", help="Open the page, too.")] = False,
) -> None:
    """Search the index in a browser."""
    index_dir = existing(index_dir)
    with terminal.err.status("starting"):
        from xattn.ui import launch
    with progress.Preparation() as shown:
        launch(
            index_dir,
            model,
            host=host,
            port=port,
            open_browser=open_browser,
            announce=shown.announce,
            report=shown.report,
        )


def _check_output(output: Path, image: Path, force: bool) -> None:
    """Before the work, not after it."""
    if output.suffix.lower() not in FORMATS:
        raise typer.BadParameter(f"{output} must end in one of {', '.join(FORMATS)}", param_hint="--output")
    if output.exists() and output.samefile(image):
        raise typer.BadParameter("it is the picture itself; it is not overwritten", param_hint="--output")
    check_file(output, "--output", force=force)


def _save_overlays(hits: Sequence[Hit], folder: Path) -> None:
    """One file a hit, named by rank, under a name that is free.

    A picture that is gone since it was indexed is left out.
    """
    digits = len(str(len(hits)))
    for hit in hits:
        output = free_name(folder, f"{hit.rank:0{digits}}-{hit.path.stem}", ".jpg")
        try:
            _save_overlay(hit.path, hit.groundings, output)
        except ImageError as error:
            terminal.err.print(f"no overlay of {terminal.plain(error)}")


def _save_overlay(image: Path, groundings: Sequence[Grounding], output: Path) -> None:
    from xattn import images, overlay

    picture, size = images.load(image, at_least=OVERLAY_SIDE)
    picture.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
    drawn = overlay.render(picture, groundings, size=size)
    with replacing(output) as temporary:
        drawn.save(temporary, format=FORMATS[output.suffix.lower()], quality=90)
