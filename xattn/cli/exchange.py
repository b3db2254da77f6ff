"""Embeddings exchanged with other tools."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from xattn import terminal
from xattn.cli.common import DEFAULT_INDEX, IndexDir, ModelName, app, check_folder, opened


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
    check_folder(output, "OUT.npy")
    with opened(index_dir, model) as engine:
        paths, vectors = engine.embeddings()
    import numpy as np

    np.save(output, vectors)
    # Names of files may hold a line break: as JSON strings they take one line each.
    lines = "".join(json.dumps(os.fspath(path)) + "\n" for path in paths)
    output.with_suffix(".jsonl").write_text(lines, encoding="utf-8")
    terminal.out.print(f"{len(paths)} embeddings written to {output}")
