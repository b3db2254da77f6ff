"""Region grids of many pictures, encoded once and kept on disk in half precision, as an index has them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor

from xattn import images
from xattn.encoders import Frames
from xattn.errors import ImageError
from xattn.model import XAttnModel
from xattn.types import RegionGrid, Size, Skipped

logger = logging.getLogger(__name__)

BATCH = 16


class EncodedPictures:
    """Region grids of M pictures in a temporary file; only what is asked for is in memory. A context
    manager.

    kept:    which of the given paths could be read, ascending; picture i below is paths[kept[i]]
    skipped: the others, with the reason
    pooled:  Float[M D], unit norm, on the model's device
    """

    def __init__(
        self, model: XAttnModel, paths: Sequence[Path], progress: Callable[[int, int], None] | None = None
    ) -> None:
        self.kept: list[int] = []
        self.skipped: list[Skipped] = []
        self._device = model.device
        self._dim = model.dim
        self._sizes: list[Size] = []
        self._starts: list[int] = []
        pooled: list[Tensor] = [torch.zeros(0, model.dim, device=model.device)]
        self._file = tempfile.TemporaryFile(prefix="xattn-evaluate-")  # noqa: SIM115  (closed by __exit__)
        try:
            for start, batch in _decoded_ahead(model, paths):
                pooled.append(self._add(model, start, batch))
                if progress is not None:
                    progress(start + len(batch), len(paths))
        except BaseException:
            self._file.close()
            raise
        self.pooled: Float[Tensor, "M D"] = torch.cat(pooled)

    def __enter__(self) -> EncodedPictures:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self.kept)

    def grids(self, pictures: Sequence[int]) -> RegionGrid:
        """Float32 region grids on the model's device, in the order asked for."""
        sizes = tuple(self._sizes[picture] for picture in pictures)
        longest = max((height * width for height, width in sizes), default=0)
        regions = np.zeros((len(pictures), longest, self._dim), np.float16)
        for padded, picture, (height, width) in zip(regions, pictures, sizes, strict=True):
            self._file.seek(self._starts[picture])
            rows = np.frombuffer(self._file.read(height * width * self._dim * 2), np.float16)
            padded[: height * width] = rows.reshape(-1, self._dim)
        on_device = torch.from_numpy(regions).to(self._device).float()
        return RegionGrid(on_device, self.pooled[list(pictures)], sizes)

    def _add(
        self, model: XAttnModel, start: int, batch: Sequence[Frames | Skipped]
    ) -> Float[Tensor, "B D"]:
        """Encodes and stores a batch, whose first path has the index `start`; returns pooled embeddings."""
        readable: list[Frames] = []
        for index, found in enumerate(batch, start):
            if isinstance(found, Skipped):
                logger.warning("%s is left out: %s", found.path, found.reason)
                self.skipped.append(found)
            else:
                self.kept.append(index)
                readable.append(found)
        if not readable:
            return torch.zeros(0, model.dim, device=model.device)
        grids = model.encode_frames(readable)
        for i, size in enumerate(grids.sizes):
            rows: Float16[np.ndarray, "R D"] = grids[i].regions[0].half().cpu().numpy()
            self._sizes.append(size)
            self._starts.append(self._file.tell())
            self._file.write(np.ascontiguousarray(rows).data)
        return grids.pooled


def _decoded_ahead(
    model: XAttnModel, paths: Sequence[Path]
) -> Iterator[tuple[int, list[Frames | Skipped]]]:
    """(index of the first, batch of resized pictures); the next batch is decoded while the caller works."""

    def read(path: Path) -> Frames | Skipped:
        try:
            return model.preprocess(images.load(path, at_least=model.vision.longest_side).picture)
        except ImageError as error:
            return Skipped(path, str(error))

    with ThreadPoolExecutor(max_workers=2) as pool:
        pending = [pool.submit(read, path) for path in paths[:BATCH]]
        for start in range(0, len(paths), BATCH):
            ready = pending
            pending = [pool.submit(read, path) for path in paths[start + BATCH : start + 2 * BATCH]]
            yield start, [future.result() for future in ready]
