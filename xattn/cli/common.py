"""What the commands share: the program, its options, and how errors are told."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from xattn import __version__
from xattn.cli import progress, terminal
from xattn.cli.startup import check_working_directory
from xattn.errors import StoreError, XattnError
from xattn.files import user_data_dir

if TYPE_CHECKING:
    from xattn.engine import Engine


class _Commands(TyperGroup):
    """Turns what a person can put right into a message and exit code 1."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # As a path it would be the working directory: `xattn remove "$FOLDER"` would remove all below it.
        if any(not arg or (arg.startswith("--") and arg.endswith("=")) for arg in args):
            raise typer.BadParameter("an argument is empty: is a variable not set?")
        return super().parse_args(ctx, args)

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


DEFAULT_INDEX = user_data_dir() / "index"
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
    check_working_directory()
    from rich.logging import RichHandler

    handler = RichHandler(console=terminal.err, show_time=False, show_level=False, show_path=False)
    if not debug:
        # What other libraries report, such as each try of a download, ends in one message of this program.
        handler.addFilter(lambda record: record.name.startswith("xattn"))
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    logging.basicConfig(handlers=[handler], format="%(message)s")
    logging.getLogger("xattn").setLevel(logging.DEBUG if debug else logging.WARNING)


@contextmanager
def opened(index_dir: Path, model: str, *, create: bool = False) -> Iterator[Engine]:
    """The engine on an index, which only `create` may make: a mistyped name is no new index."""
    directory = expanded(index_dir) if create else existing(index_dir)
    with progress.loading(model):
        import xattn

        engine = xattn.open(directory, model)
    with engine:
        yield engine


def expanded(path: Path) -> Path:
    """With ~ as the home directory. Raises StoreError where the system knows none."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise StoreError(
            f"{path} lies in a home directory that is not known here; name the index with --index or "
            "XATTN_INDEX, or set HOME"
        ) from error


def existing(index_dir: Path) -> Path:
    directory = expanded(index_dir).absolute()
    if not directory.is_dir():
        raise StoreError(f"there is no index at {directory}. Make one with: xattn index DIR")
    return directory
