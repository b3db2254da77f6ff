"""Looking at captioned pictures before training on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xattn.cli import progress, terminal
from xattn.cli.common import Json, app
from xattn.service import schemas

data = typer.Typer(no_args_is_help=True, help="Look at datasets.")
app.add_typer(data, name="data")


@data.callback()
def _data() -> None:
    """Look at datasets."""


@data.command()
def check(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="Captioned pictures: folder, table, tar files, hf:NAME.")
    ],
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the pictures of a table or COCO file are.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell what is wrong with captioned pictures before training on them.

    Missing and broken pictures, pictures without a caption, captions that are blank or that several
    pictures share, and pictures of one split that look like one of another. Exit code 1 if any picture or
    caption cannot be used as it is.
    """
    with terminal.err.status("loading"):
        from xattn.datasets.check import check_dataset
    with progress.Bar("checking", unit="pictures") as bar:
        report = check_dataset(path, pictures=pictures, progress=bar.update)
    if as_json:
        terminal.print_json(schemas.check_record(report))
    else:
        terminal.print_check(report)
    if not report.is_usable:
        raise typer.Exit(1)
