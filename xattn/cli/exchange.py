"""Embeddings exchanged with other tools."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from xattn.cli import terminal
from xattn.cli.common import DEFAULT_INDEX, IndexDir, ModelName, app, opened
from xattn.cli.outputs import Force, check_file
from xattn.files import replacing, write_bytes, write_text


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
    force: Force = False,
) -> None:
    """Write every picture's embedding to a NumPy or FAISS file, and the paths to a file beside it.

    Line i of the .jsonl file of the same name is the path of row i, as a JSON string. The FAISS file is a
    flat index by inner product. With an open_clip model these are its own image embeddings.
    """
    if output.suffix not in (".npy", ".faiss"):
        raise typer.BadParameter(f"{output} must end in .npy or .faiss", param_hint="OUT")
    paths_file = output.with_suffix(".jsonl")
    for file in (output, paths_file):
        check_file(file, "OUT", force=force)
    with opened(index_dir, model) as engine:
        paths, vectors = engine.embeddings()
    if output.suffix == ".npy":
        import numpy as np

        with replacing(output) as temporary, temporary.open("wb") as opened_file:
            np.save(opened_file, vectors)
    else:
        import faiss

        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(vectors)
        # Serialised here, because FAISS's own writer tells errors as RuntimeError.
        write_bytes(output, faiss.serialize_index(flat).tobytes())
    # Names of files may hold a line break: as JSON strings they take one line each.
    lines = "".join(json.dumps(os.fspath(path)) + "\n" for path in paths)
    write_text(paths_file, lines)
    terminal.out.print(f"{len(paths)} embeddings written to {output}")
