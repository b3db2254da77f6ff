"""The command line.

Nothing heavy is imported before a command runs, so that help and usage errors answer at once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from xattn import __version__, terminal
from xattn.errors import ImageError, StoreError, XattnError

if TYPE_CHECKING:
    from xattn.engine import Engine
    from xattn.types import Grounding, Hit, Progress

OVERLAY_SIDE = 1024
"""Overlays are as large as their pictures, but no larger than this on the long side."""
OVERLAY_FORMATS = (".png", ".jpg", ".jpeg", ".webp")
INTERRUPTED = 130  # what shells report for Ctrl+C


class _Commands(TyperGroup):
    """Turns what a person can put right into a message and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output has gone: nothing to tell it
            raise
        except (XattnError, OSError) as error:
            if ctx.params["debug"]:
                raise
            terminal.err.print(f"xattn: {terminal.plain(_message(error))}")
            raise typer.Exit(1) from None


def _message(error: XattnError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


app = typer.Typer(
    cls=_Commands, no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False
)


def _data_dir() -> str:
    """Where the system keeps what programs store for a user."""
    if sys.platform == "win32":
        return os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    if sys.platform == "darwin":
        return "~/Library/Application Support"
    given = os.environ.get("XDG_DATA_HOME", "")
    return given if os.path.isabs(given) else "~/.local/share"


DEFAULT_INDEX = Path(_data_dir(), "xattn", "index")
"""One index for all of a user's pictures, found from whichever folder a command is given in."""

IndexDir = Annotated[
    Path,
    typer.Option(
        "--index",
        metavar="INDEX_DIR",
        envvar="XATTN_INDEX",
        file_okay=False,
        help="Directory of the index.",
    ),
]
ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        envvar="XATTN_MODEL",
        help="Directory or name of the model; for names see xattn models.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Text = Annotated[
    str, typer.Argument(metavar="TEXT", help="What to find. Brackets mark phrases: 'a dog in [a red hat]'.")
]


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"xattn {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _xattn(
    debug: Annotated[
        bool, typer.Option("--debug", help="Log what happens, and show where in the code an error arose.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Search pictures by text, and see where in each picture each part of the text was found."""
    from rich.logging import RichHandler

    plain = RichHandler(console=terminal.err, show_time=False, show_level=False, show_path=False)
    logging.basicConfig(handlers=[plain], format="%(message)s")
    logging.getLogger("xattn").setLevel(logging.DEBUG if debug else logging.WARNING)


@app.command()
def index(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="DIR", exists=True, help="Folders, with all below them, or picture files."),
    ],
    index_dir: IndexDir = DEFAULT_INDEX,
    model: ModelName = "default",
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures that are encoded together.")] = 8,
) -> None:
    """Make pictures findable, or bring the index up to date with them.

    Only what is new or changed is encoded. An interrupted run loses a few seconds of work at most: give
    the same command again.
    """
    with _opened(index_dir, model, create=True) as engine:
        try:
            with terminal.Bar("looking for pictures", unit="pictures") as bar:

                def show(progress: Progress) -> None:
                    bar.update("indexing", progress.done, progress.total)

                report = engine.add(paths, progress=show, batch_size=batch_size)
        except KeyboardInterrupt:
            terminal.err.print(f"Interrupted; {len(engine)} pictures can be found so far.")
            raise typer.Exit(INTERRUPTED) from None
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
    with _opened(index_dir, model) as engine:
        hits = engine.search(text, k)
        if len(engine) == 0:
            terminal.err.print("The index is empty. Add pictures with: xattn index DIR")
    if save_overlays is not None:
        _save_overlays(hits, save_overlays)
    if as_json:
        terminal.print_json({"query": text, "hits": [terminal.hit_record(hit) for hit in hits]})
    elif terminal.is_interactive():
        terminal.print_hits(hits)
    else:
        terminal.print_lines(map(terminal.hit_fields, hits))


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
) -> None:
    """Show where in a picture a text and each of its phrases are found.

    Boxes are x1, y1, x2, y2 in pixels of the upright picture. Piped, each line has phrase, probability,
    score and strongest box, with tabs between them.
    """
    if output is not None:
        _check_output(output, image)
    # An engine lives on an index; this picture is not to become part of the user's.
    with TemporaryDirectory(prefix="xattn-") as scratch, _opened(Path(scratch), model) as engine:
        groundings = engine.ground(image, text)
    if output is not None:
        _save_overlay(image, groundings[1:] or groundings, output)
    if as_json:
        found = [terminal.grounding_record(grounding) for grounding in groundings]
        terminal.print_json({"query": text, "path": os.fspath(image.absolute()), "groundings": found})
    elif terminal.is_interactive():
        terminal.print_groundings(groundings)
    else:
        terminal.print_lines(map(terminal.grounding_fields, groundings))


@app.command()
def info(index_dir: IndexDir = DEFAULT_INDEX, model: ModelName = "default", as_json: Json = False) -> None:
    """Tell where the index is and what it holds."""
    with _opened(index_dir, model) as engine:
        found = engine.info()
    if as_json:
        terminal.print_json(terminal.info_record(found))
    else:
        terminal.print_info(found)


@app.command()
def embeddings(
    output: Annotated[
        Path, typer.Argument(metavar="OUT.npy", dir_okay=False, help="File for them, float32 [N, D].")
    ],
    index_dir: IndexDir = DEFAULT_INDEX,
    model: ModelName = "default",
) -> None:
    """Write every picture's embedding to a NumPy file, and the paths to a file beside it.

    Line i of OUT.jsonl is the path of row i, as a JSON string. With an open_clip model these are its own
    image embeddings.
    """
    if output.suffix != ".npy":
        raise typer.BadParameter(f"{output} must end in .npy", param_hint="OUT.npy")
    _check_folder(output, "OUT.npy")
    with _opened(index_dir, model) as engine:
        paths, vectors = engine.embeddings()
    import numpy as np

    np.save(output, vectors)
    # Names of files may hold a line break: as JSON strings they take one line each.
    lines = "".join(json.dumps(os.fspath(path)) + "\n" for path in paths)
    output.with_suffix(".jsonl").write_text(lines, encoding="utf-8")
    terminal.out.print(f"{len(paths)} embeddings written to {output}")


@app.command()
def remove(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Picture files, or folders with all below them.")
    ],
    index_dir: IndexDir = DEFAULT_INDEX,
    model: ModelName = "default",
) -> None:
    """Take pictures out of the index. The files stay as they are."""
    with _opened(index_dir, model) as engine:
        removed = engine.remove(paths)
        terminal.out.print(f"{len(removed)} removed, {len(engine)} pictures remain in the index")


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
    index_dir = _existing(index_dir)
    with terminal.err.status("starting"):
        from xattn.ui import launch
    launch(index_dir, model, host=host, port=port, open_browser=open_browser)


@app.command()
def evaluate(
    data: Annotated[
        str,
        typer.Option(
            metavar="PATH", help="Captioned pictures in any layout: folder, table, COCO, tar files."
        ),
    ],
    model: ModelName = "default",
    split: Annotated[str | None, typer.Option(help="The part of the data, such as dev.")] = None,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL2", help="Compare with a second model, case by case.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write every figure to this file, too.")
    ] = None,
) -> None:
    """Measure a model on captioned pictures: retrieval, grounding, hard negatives, calibration."""
    if json_file is not None:
        _check_folder(json_file, "--json")
    with terminal.err.status("loading"):
        from xattn import evaluation
        from xattn.checkpoint import load_model

        dataset = evaluation.load_dataset(data, split)
        first = load_model(model)
        second = None if against is None else load_model(against)
    with terminal.Bar("encoding pictures") as bar:
        report = evaluation.evaluate(first, dataset, other=second, progress=bar.update)
    if json_file is not None:
        json_file.write_text(report.to_json() + "\n", encoding="utf-8")
    if terminal.is_interactive():
        terminal.out.print(report.table(), soft_wrap=False)
    else:
        typer.echo(report.markdown(), nl=False)


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
        from xattn.encoders.openclip_catalogue import list_models

        found = [model for model in list_models(text) if model.maps == "advised" or not advised]
    if as_json:
        terminal.print_json({"models": [terminal.model_record(model) for model in found]})
    elif terminal.is_interactive():
        terminal.print_models(found)
    else:
        terminal.print_lines(map(terminal.model_fields, found))


@app.command(
    add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def train(context: typer.Context) -> None:
    """Fine-tune a model on your own captioned pictures. `xattn train --help` tells more."""
    import runpy

    # Training is a program above this library, which must not import it: it is run, as a person would.
    sys.argv = ["xattn train", "own", *context.args]
    runpy.run_module("training", run_name="__main__", alter_sys=True)


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
) -> None:
    """Tell what is wrong with captioned pictures before training on them.

    Missing and broken pictures, pictures without a caption, captions that are blank or that several
    pictures share, and pictures of one split that look like one of another. Exit code 1 if any picture or
    caption cannot be used as it is.
    """
    with terminal.err.status("loading"):
        from xattn.datasets.check import check_dataset
    with terminal.Bar("checking", unit="pictures") as bar:
        report = check_dataset(path, pictures=pictures, progress=bar.update)
    terminal.print_check(report)
    if not report.is_usable:
        raise typer.Exit(1)


@app.command()
def export(
    output: Annotated[
        Path,
        typer.Argument(metavar="OUT", file_okay=False, help="Directory for the model; made if absent."),
    ],
    model: Annotated[str, typer.Option("--model", envvar="XATTN_MODEL", help="An open_clip model.")],
) -> None:
    """Save an open_clip model as a directory that runs by ONNX Runtime on a CPU.

    Give that directory as --model. It loads without a network, by torch where ONNX Runtime is not
    installed or a graphics card is used. Needs the extra *onnx*.
    """
    with terminal.err.status("loading"):
        from xattn.checkpoint import load_model, save_model
        from xattn.pretrained import export_graph

        loaded = load_model(model, device="cpu")
    with terminal.err.status("exporting"):
        save_model(loaded, output, card=f"# {model}\n\nSaved by `xattn export`; weights as published.\n")
        export_graph(loaded, output)
    terminal.out.print(f"{output} holds {model}; use it with: --model {output}")


# --- what the commands share ----------------------------------------------------------------------------


@contextmanager
def _opened(index_dir: Path, model: str, *, create: bool = False) -> Iterator[Engine]:
    """The engine on an index, which only `create` may make: a mistyped name is no new index."""
    directory = index_dir.expanduser() if create else _existing(index_dir)
    with terminal.err.status("loading"):
        import xattn

        engine = xattn.open(directory, model)
    with engine:
        yield engine


def _existing(index_dir: Path) -> Path:
    directory = index_dir.expanduser().absolute()
    if not directory.is_dir():
        raise StoreError(f"there is no index at {directory}. Make one with: xattn index DIR")
    return directory


def _check_output(output: Path, image: Path) -> None:
    """Before the work, not after it."""
    if output.suffix.lower() not in OVERLAY_FORMATS:
        raise typer.BadParameter(
            f"{output} must end in one of {', '.join(OVERLAY_FORMATS)}", param_hint="--output"
        )
    _check_folder(output, "--output")
    if output.exists() and output.samefile(image):
        raise typer.BadParameter("it is the picture itself; it is not overwritten", param_hint="--output")


def _check_folder(output: Path, option: str) -> None:
    if not output.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {output.absolute().parent}", param_hint=option)


def _save_overlays(hits: Sequence[Hit], folder: Path) -> None:
    """One file a hit, named by rank. A picture that is gone since it was indexed is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = len(str(len(hits)))
    for hit in hits:
        name = f"{hit.rank:0{digits}}-{hit.path.stem[:80]}.jpg"
        try:
            _save_overlay(hit.path, hit.groundings, folder / name)
        except ImageError as error:
            terminal.err.print(f"no overlay of {terminal.plain(error)}")


def _save_overlay(image: Path, groundings: Sequence[Grounding], output: Path) -> None:
    from xattn import images, overlay

    picture, size = images.load(image, at_least=OVERLAY_SIDE)
    picture.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
    overlay.render(picture, groundings, size=size).save(output, quality=90)


def main() -> None:
    """The entry point of `xattn` and `python -m xattn`."""
    if isinstance(sys.stdout, TextIOWrapper):
        # What the output's encoding lacks, as in a file's name, is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    app(prog_name="xattn")
