"""What the frozen towers say of every picture and view, kept on disk in half precision.

A cache directory holds, for each split and view, memory-mapped arrays with one row per record:

    {split}_{view}_cells.npy     float16 [records, 144, 1280]  what `TowerFeatures` says under these names
    {split}_{view}_textures.npy  float16 [records, 300, 120]
    {split}_{view}_tokens.npy    float16 [records, 301, 384]
    {split}_{view}_early.npy     float16 [records, 301, 384]
    {split}_{view}_prior.npy     float16 [records, 145, 384]
    {split}_{view}_colors.npy    float16 [records, 300, 6]
    {split}_{view}_grid.npy      int16 [records, 2]            (H, W) of the regions; (0, 0): not done yet
    {split}.json                 of which pictures and towers they are

A row's grid is written last, so work that was broken off goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from xattn.encoders import Frames
from xattn.encoders.hybrid.fusion import TowerFeatures
from xattn.encoders.hybrid.vision import SHAPES, HybridEncoder
from xattn.errors import DataError
from xattn.images import load
from xattn.training.pictures import Dataset, Picture
from xattn.training.views import MIN_AREA, View, views_of
from xattn.types import Progress, Size

MAX_REGIONS = max(shape.grid[0] * shape.grid[1] for shape in SHAPES)
MAX_CELLS = max(shape.conv_grid[0] * shape.conv_grid[1] for shape in SHAPES)
BATCH_SIZE = 8
DECODE_AHEAD = 2 * BATCH_SIZE


@dataclass(frozen=True, slots=True)
class ViewFeatures:
    """One view of a split. arrays: by the names in `TowerFeatures`, a row per record, zeros behind."""

    views: list[View]
    arrays: Mapping[str, Float[np.ndarray, "N places width"]]
    grid: Int[np.ndarray, "N 2"]

    def size(self, row: int) -> Size:
        height, width = self.grid[row].tolist()
        return height, width


def cached_features(
    vision: HybridEncoder,
    dataset: Dataset,
    num_views: int,
    directory: Path,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> list[ViewFeatures]:
    """Features of the dataset's pictures in views 0 … num_views - 1, computed where not yet kept.

    progress: called after each picture and view, also for those already kept. Takes about 150 ms per
    picture and view on two cores, 1.1 MB of disk each.
    Raises DataError if the directory holds features of other pictures or towers, ImageError if a picture
    cannot be read.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _claim(directory / f"{dataset.split}.json", cache_key(vision, dataset))
    total = num_views * len(dataset.pictures)
    caches = []
    for number in range(num_views):
        cache = _open(vision, dataset, number, directory)
        seen = number * len(dataset.pictures)
        for done, picture in enumerate(_fill(vision, dataset, cache), seen + 1):
            if progress is not None:
                progress(Progress(done, total, picture.path))
        caches.append(cache)
    return caches


def cache_key(vision: HybridEncoder, dataset: Dataset) -> dict[str, str]:
    """Digests of what features depend on: the order of the records and the towers' weights."""
    records = hashlib.blake2b(str(dataset.record_ids).encode(), digest_size=16)
    return {"records": records.hexdigest(), "conv": _digest(vision.conv), "vit": _digest(vision.vit)}


def _digest(net: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _claim(path: Path, key: dict[str, str]) -> None:
    """Marks a cache as made from `key`, or checks that it was."""
    if not path.exists():
        path.write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}; delete {path.parent} and run again") from error
    differing = [name for name in key if found.get(name) != key[name]]
    if differing:
        raise DataError(
            f"the features in {path.parent} were made with other {' and '.join(differing)}: "
            "name another directory with --cache, or delete this one"
        )


def _open(vision: HybridEncoder, dataset: Dataset, number: int, directory: Path) -> ViewFeatures:
    count = len(dataset.record_ids)
    config = vision.config.fusion
    widths = {
        "cells": (MAX_CELLS, config.conv_width),
        "textures": (MAX_REGIONS, config.texture_width),
        "tokens": (1 + MAX_REGIONS, config.vit_width),
        "early": (1 + MAX_REGIONS, config.vit_width),
        "prior": (1 + MAX_CELLS, config.text_width),
        "colors": (MAX_REGIONS, config.color_width),
    }

    def array(name: str, shape: tuple[int, ...], kind: type) -> np.ndarray:
        path = directory / f"{dataset.split}_{number}_{name}.npy"
        mode: Literal["r+", "w+"] = "r+" if path.exists() else "w+"
        found = np.lib.format.open_memmap(path, mode, dtype=kind, shape=shape)
        if found.shape != shape or found.dtype != kind:
            raise DataError(f"{path} has shape {found.shape}, expected {shape}: delete {directory}")
        return found

    arrays = {name: array(name, (count, *shape), np.float16) for name, shape in widths.items()}
    return ViewFeatures(views_of(number, count), arrays, array("grid", (count, 2), np.int16))


def _fill(vision: HybridEncoder, dataset: Dataset, cache: ViewFeatures) -> Iterator[Picture]:
    """Computes the missing rows, decoding ahead of the nets; yields each picture once its row is there."""
    missing: list[Picture] = []
    for picture in dataset.pictures:
        if cache.grid[picture.row].any():
            yield picture
        else:
            missing.append(picture)
    waiting: dict[Size, list[tuple[Picture, Frames]]] = {shape.vit: [] for shape in SHAPES}
    for picture, frames in _decoded(vision, missing, cache.views):
        members = waiting[(frames[0].shape[1], frames[0].shape[2])]
        members.append((picture, frames))
        if len(members) == BATCH_SIZE:
            yield from _write(vision, cache, members)
            members.clear()
    for members in waiting.values():
        if members:
            yield from _write(vision, cache, members)


def _decoded(
    vision: HybridEncoder, pictures: Sequence[Picture], views: Sequence[View]
) -> Iterator[tuple[Picture, Frames]]:
    # A crop shows at least the square root of MIN_AREA of each side, so this is more than enough.
    at_least = round(vision.longest_side / MIN_AREA)

    def frames(picture: Picture) -> Frames:
        whole = load(picture.path, at_least=at_least).picture
        return vision.preprocess(views[picture.row].apply(whole))

    with ThreadPoolExecutor(1) as pool:
        rest = iter(pictures)
        pending = [(picture, pool.submit(frames, picture)) for picture in islice(rest, DECODE_AHEAD)]
        while pending:
            picture, future = pending.pop(0)
            pending += [(later, pool.submit(frames, later)) for later in islice(rest, 1)]
            yield picture, future.result()


@torch.inference_mode()
def _write(
    vision: HybridEncoder, cache: ViewFeatures, members: Sequence[tuple[Picture, Frames]]
) -> Iterator[Picture]:
    device = vision.fusion.class_names.device
    vit, conv = (torch.stack([frames[net] for _, frames in members]).to(device) for net in (0, 1))
    features = TowerFeatures(*vision.features(vit, conv))
    shape = next(shape for shape in SHAPES if shape.vit == tuple(vit.shape[2:]))
    for index, (picture, _) in enumerate(members):
        for name, values in features._asdict().items():
            cache.arrays[name][picture.row, : values.shape[1]] = values[index].cpu().numpy()
        cache.grid[picture.row] = shape.grid
    return iter([picture for picture, _ in members])
