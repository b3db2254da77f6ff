"""Which parts of the towers run as graphs of ONNX Runtime, and what each is traced with.

What costs time is exported: the nets of a vision tower, whole, and the text tower. What stands around them
(views, windows, the fusion of the default tower's nets, tokenizers) stays where it is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from xattn.encoders.base import TextEncoder, VisionEncoder
from xattn.encoders.hybrid.vision import HybridEncoder
from xattn.encoders.onnx.runtime import Exported, Graph, export_function, stamp, weights_digest
from xattn.errors import CheckpointError, MissingExtra

logger = logging.getLogger(__name__)

FILES = ("vision.onnx", "text.onnx")
SAMPLE_PICTURES = (Image.new("RGB", (64, 48)), Image.new("RGB", (64, 48), "white"))
SAMPLE_TEXTS = ["a dog", "two cats that sleep on a red sofa"]


@dataclass(frozen=True, slots=True)
class Part:
    """A method that a graph can stand in for.

    file: the graph's name in a model directory; sample: makes inputs to trace it with
    others: methods that give one of its outputs alone, by the number of that output
    """

    file: str
    module: VisionEncoder | TextEncoder
    method: str
    sample: Callable[[], tuple[Tensor, ...]]
    others: Mapping[str, int]


def parts(vision: VisionEncoder, text: TextEncoder) -> Iterator[Part]:
    """Those of a model's towers, the vision tower's first."""
    if isinstance(vision, HybridEncoder):
        yield Part(FILES[0], vision, "features", lambda: _stacked(vision), {})
    else:
        from xattn.encoders.openclip.model import OpenClipVision  # takes seconds to import

        if isinstance(vision, OpenClipVision):
            others = {"pooled_features": 1}
            yield Part(FILES[0], vision, "features", lambda: (vision.sample(2),), others)
    tokenize: Any = getattr(text, "tokenize", None)
    if tokenize is not None and hasattr(text, "features"):
        yield Part(FILES[1], text, "features", lambda: _as_tuple(tokenize(SAMPLE_TEXTS)), {})


def export_graphs(vision: VisionEncoder, text: TextEncoder, directory: Path) -> list[Path]:
    """Writes the graphs of both towers beside a model's weights; returns the files.

    A text tower that ONNX cannot express is left to torch, with a warning. Raises CheckpointError if the
    vision tower cannot be exported, MissingExtra without the extra "onnx".
    """
    written: list[Path] = []
    for part in parts(vision, text):
        temporary = directory / f".{part.file}.tmp"
        try:
            export_function(getattr(part.module, part.method), part.module, part.sample(), temporary)
            stamp(temporary, weights_digest(part.module))
            _check_runs(temporary, part)
        except CheckpointError as error:
            temporary.unlink(missing_ok=True)
            if not written:
                raise
            logger.warning("%s; texts will be encoded by torch", error)
            continue
        os.replace(temporary, directory / part.file)
        written.append(directory / part.file)
    if not written:
        raise CheckpointError(f"towers of type {type(vision).__name__} cannot be exported")
    return written


def remove_graphs(directory: Path) -> None:
    """Removes the graphs of a model directory, whose weights are about to change."""
    for name in FILES:
        (directory / name).unlink(missing_ok=True)


def use_graphs(vision: VisionEncoder, text: TextEncoder, directory: Path) -> None:
    """Lets towers whose weights were just loaded from a directory run the graphs that lie beside them.

    A graph that was exported for other weights, or by a version that did not note for which, is not run; a
    warning says so. Raises CheckpointError if a graph is damaged.
    """
    for part in parts(vision, text):
        path = directory / part.file
        if not path.is_file():
            continue
        try:
            graph = Graph(path, part.module)
        except MissingExtra as error:
            logger.warning("%s; running by torch instead", error)
            return
        if graph.weights_digest != weights_digest(part.module):
            logger.warning(
                "%s was exported for other weights than those beside it; running by torch instead. "
                "Export the model again with xattn export.",
                path,
            )
            continue
        Exported(part.module, part.method, graph)
        for method, output in part.others.items():
            Exported(part.module, method, graph, output)


def _check_runs(path: Path, part: Part) -> None:
    """torch writes some graphs that no runtime takes: better told now than when the model is loaded."""
    try:
        Graph(path, part.module)
    except MissingExtra:
        return  # exported here to run elsewhere
    except CheckpointError as error:
        raise CheckpointError(f"{type(part.module).__name__} cannot be exported: {error}") from error


def _stacked(vision: HybridEncoder) -> tuple[Tensor, ...]:
    device = next(vision.parameters()).device
    frames = [vision.preprocess(picture) for picture in SAMPLE_PICTURES]
    return tuple(torch.stack(views).to(device) for views in zip(*frames, strict=True))


def _as_tuple(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)
