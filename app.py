"""The demonstration: `python app.py` searches the sample photos, `--index DIR` an index of your own."""

from pathlib import Path
from typing import Annotated

import typer


def main(
    index: Annotated[Path | None, typer.Option(metavar="DIR", help="Made by `xattn index`.")] = None,
    model: Annotated[str, typer.Option(help="Name or directory of the model.")] = "default",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="By default the first free one from 7860 on.")] = None,
    open_browser: Annotated[bool, typer.Option("--open-browser", help="Open the page, too.")] = False,
) -> None:
    """Search the sample photos, or an index of your own, in the browser."""
    # After the arguments: it takes seconds, and help and mistakes need none of it.
    from xattn.allocator import keep_freed_memory
    from xattn.cli.progress import Preparation
    from xattn.errors import XattnError
    from xattn.ui import launch

    keep_freed_memory()

    try:
        with Preparation() as shown:
            launch(
                index,
                model,
                host=host,
                port=port,
                open_browser=open_browser,
                announce=shown.announce,
                report=shown.report,
            )
    except XattnError as error:
        typer.echo(f"xattn: {error}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    typer.run(main)
