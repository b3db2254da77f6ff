"""Files and folders that commands write: checked before the work begins, and never over a person's own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

MAX_NAME_BYTES = 140
"""Of a derived file name, extension left out: encrypted folders take 143 bytes in all, others 255."""

Force = Annotated[bool, typer.Option("--force", help="Replace an output file that exists.")]


def check_file(output: Path, option: str, *, force: bool = False) -> None:
    """Before the work: whether a file can be written, and none of a person's is in its place.

    Raises:
        typer.BadParameter: it exists, unless `force`, or is a folder; its folder is missing or closed.
    """
    if output.is_dir():
        raise typer.BadParameter(f"{output} is a folder; name a file", param_hint=option)
    if os.path.lexists(output) and not force:
        raise typer.BadParameter(
            f"{output} exists and is left as it is; name another file, or add --force to replace it",
            param_hint=option,
        )
    check_folder(output.absolute().parent, option)


def check_model_directory(output: Path, option: str) -> None:
    """Before the work: whether a model directory can be written there.

    Raises:
        typer.BadParameter: it is a file, or a folder of something else than a model of xattn.
    """
    from xattn.model.directory import foreign_entry

    if output.exists() and not output.is_dir():
        raise typer.BadParameter(f"{output} is a file; name a directory", param_hint=option)
    foreign = foreign_entry(output)
    if foreign is not None:
        raise typer.BadParameter(
            f"{output} holds {foreign!r} and is no model directory of xattn; it is left as it is. "
            "Name an empty directory or one that does not exist",
            param_hint=option,
        )
    existing = output.absolute()
    while not existing.exists():
        existing = existing.parent
    check_folder(existing, option)


def check_folder(folder: Path, option: str) -> None:
    """Raises typer.BadParameter unless files can be made in a folder."""
    if not folder.is_dir():
        raise typer.BadParameter(f"there is no folder {folder}", param_hint=option)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise typer.BadParameter(
            f"{folder} cannot be written to: {error.strerror}", param_hint=option
        ) from error


def free_name(folder: Path, stem: str, suffix: str) -> Path:
    """A path in `folder` that is free: STEM.SUFFIX, STEM-2.SUFFIX and so on, the stem cut by bytes."""
    whole_signs = os.fsencode(stem)[:MAX_NAME_BYTES].decode("utf-8", "ignore")
    stem = whole_signs.rstrip(" .") or "picture"
    number = 1
    while True:
        path = folder / (f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}")
        if not os.path.lexists(path):
            return path
        number += 1
