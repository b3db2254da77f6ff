"""Embeddings exchanged with other tools."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from xattn.cli import terminal
from xattn.cli.common import DEFAULT_INDEX, IndexDir, ModelName, app, check_folder, opened


@app.command()
def embeddings(
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", dir_okay=False, help="File for them, .npy (float32 [N, D]) or .faiss."
        ),
    ],
    index_dir: IndexDir = DEFAULT_INDEX,
    model: ModelName = "default",
) -> None:
    """Write every picture's embedding to a NumPy or FAISS file, and the paths to a file beside it.

    Line i of the .jsonl file of the same name is the path of row i, as a JSON string. The FAISS file is a
    flat index by inner product. With an open_clip model these are its own image embeddings.
    """
    if output.suffix not in (".npy", ".faiss"):
        raise typer.BadParameter(f"{output} must end in .npy or .faiss", param_hint="OUT")
    check_folder(output, "OUT")
    with opened(index_dir, model) as engine:
        paths, vectors = engine.embeddings()
    if output.suffix == ".npy":
        import numpy as np

        np.save(output, vectors)
    else:
        import faiss

        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(vectors)
        faiss.write_index(flat, os.fspath(output))
    # Names of files may hold a line break: as JSON strings they take one line each.
    lines = "".join(json.dumps(os.fspath(path)) + "\n" for path in paths)
    output.with_suffix(".jsonl").write_text(lines, encoding="utf-8")
    terminal.out.print(f"{len(paths)} embeddings written to {output}")
