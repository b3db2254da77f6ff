"""Pictures and texts as the model in training sees them.

In head mode the towers are frozen: each picture passes them once per view, and what they say is kept on
disk (of the default model what goes into the fusion, of others the regions themselves). In the other modes
pictures are decoded, changed and encoded anew in every step, with gradients.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xattn import images
from xattn.model import XAttnModel
from xattn.training import modes, parallel
from xattn.training.default_towers import towers_of
from xattn.training.features import ViewFeatures, cached_features
from xattn.training.gather import gather, text_table
from xattn.training.pictures import Dataset as Kept
from xattn.training.pictures import Picture
from xattn.training.settings import Settings
from xattn.training.views import MIN_AREA, views_of
from xattn.types import RegionGrid

Encoded = tuple[Float[Tensor, "B R D"], Float[Tensor, "B D"], Bool[Tensor, "B R"]]
"""Regions, pooled, and which regions are real."""
Texts = Callable[[Sequence[str]], Float[Tensor, "N D"]]
Show = Callable[[int, int], None]
"""Called with (done, total)."""

LIVE_VIEWS = 4
AT_ONCE = 16
"""Pictures that are encoded together for what is kept on disk."""


class Pictures(ABC):
    """The pictures of one split, by row and view; view 0 shows the whole picture."""

    num_views: int

    @abstractmethod
    def load(self, rows: Sequence[int], views: Sequence[int]) -> Sequence[Any]:
        """What need not be done again when a picture is encoded twice; one item a picture."""

    @abstractmethod
    def encode(self, items: Sequence[Any]) -> Encoded:
        """With gradients for all that is trained."""

    def ahead(self, rows: Sequence[int], views: Sequence[int]) -> None:  # noqa: B027  nothing, by default
        """Told what will be loaded next."""

    @torch.no_grad()
    def grids(self, rows: Sequence[int]) -> Iterator[RegionGrid]:
        """Whole pictures, a few at a time. Regions lie in one row: nothing here asks where they are."""
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            regions, pooled, mask = self.encode(self.load(some, [0] * len(some)))
            sizes = tuple((1, int(count)) for count in mask.sum(1))
            yield RegionGrid(regions.float() * mask[..., None], pooled.float(), sizes)


class FusedPictures(Pictures):
    """Of the default model with frozen towers: the fusion of kept features."""

    def __init__(self, fusion: nn.Module, features: Sequence[ViewFeatures], device: torch.device) -> None:
        self.fusion, self.features, self.device = fusion, features, device
        self.num_views = len(features)

    def load(self, rows: Sequence[int], views: Sequence[int]) -> Sequence[tuple[int, int]]:
        return list(zip(rows, views, strict=True))

    def encode(self, items: Sequence[tuple[int, int]]) -> Encoded:
        rows, views = [row for row, _ in items], [view for _, view in items]
        given = gather(self.features, views, rows, self.device)
        regions, pooled = given.fused(self.fusion)  # type: ignore[arg-type]
        return regions, pooled, given.mask


class SeenPictures(Pictures):
    """Through the towers, decoded on the fly and ahead of need."""

    def __init__(self, model: XAttnModel, pictures: Sequence[Picture], num_views: int) -> None:
        self.vision = model.vision
        self.pictures = pictures
        self.num_views = num_views
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        self._waiting: dict[tuple[int, int], Future[Any]] = {}

    def ahead(self, rows: Sequence[int], views: Sequence[int]) -> None:
        for place in zip(rows, views, strict=True):
            if place not in self._waiting:
                self._waiting[place] = self._pool.submit(self._frames, *place)

    def load(self, rows: Sequence[int], views: Sequence[int]) -> Sequence[Any]:
        self.ahead(rows, views)
        places = list(zip(rows, views, strict=True))
        found = [self._waiting[place].result() for place in places]
        for place in places:
            self._waiting.pop(place, None)
        return found

    def _frames(self, row: int, view: int) -> Any:
        at_least = round(self.vision.longest_side / (1.0 if view < 2 else MIN_AREA))
        picture = images.load(self.pictures[row].path, at_least=at_least).picture
        number = view if view < 2 else view + 7919 * row  # another crop of each picture
        return self.vision.preprocess(views_of(number, 1)[0].apply(picture))

    def encode(self, items: Sequence[Any]) -> Encoded:
        grid = self.vision(items)
        return grid.regions, grid.pooled, grid.mask


class KeptPictures(Pictures):
    """Regions of a frozen model, kept on disk in half precision, one file a picture and view."""

    def __init__(self, paths: Sequence[Sequence[Path]], device: torch.device) -> None:
        """paths: by view, then by row."""
        self.paths, self.device = paths, device
        self.num_views = len(paths)

    def load(self, rows: Sequence[int], views: Sequence[int]) -> Sequence[np.ndarray]:
        """The pooled vector, then the regions: [1 + R, D]."""
        return [np.load(self.paths[view][row]) for row, view in zip(rows, views, strict=True)]

    def encode(self, items: Sequence[np.ndarray]) -> Encoded:
        tensors = [torch.from_numpy(item).to(self.device).float() for item in items]
        unit = nn.functional.normalize
        grid = RegionGrid.stack(
            [RegionGrid(t[None, 1:], unit(t[:1], dim=-1), ((1, len(t) - 1),)) for t in tensors]
        )
        return grid.regions, grid.pooled, grid.mask


class Sources:
    """Makes the pictures and texts of one model in one mode.

    directory: where what is kept lies; say: (what is being done, done, total)
    """

    def __init__(
        self, model: XAttnModel, settings: Settings, directory: Path, say: Callable[[str, int, int], None]
    ) -> None:
        self.model, self.settings = model, settings
        self.directory, self.say = directory, say
        self._digest = model.fingerprint[:12]  # before anything is trained

    def pictures(self, kept: Kept, num_views: int, what: str) -> Pictures:
        if self.settings.mode != "head":
            return SeenPictures(self.model, kept.pictures, max(num_views, LIVE_VIEWS))
        with parallel.main_first():
            if modes.is_default(self.model):
                vision, _ = towers_of(self.model)
                features = cached_features(
                    vision,
                    kept,
                    num_views,
                    self.directory,
                    progress=lambda done: self.say(what, done.done, done.total),
                )
                return FusedPictures(vision.fusion, features, self.model.device)
            return self._regions(kept, num_views, what)

    def texts(self, captions: Sequence[str]) -> Texts:
        """captions: all that will be asked for."""
        if self.settings.mode != "head":
            return self.model.text
        rows = {caption: row for row, caption in enumerate(captions)}
        if modes.is_default(self.model):
            _, text = towers_of(self.model)
            table, head = text_table(text, captions).to(self.model.device), text.head
        else:
            chunks = [captions[i : i + 256] for i in range(0, len(captions), 256)]
            table = torch.cat([self.model.encode_texts(chunk) for chunk in chunks])
            head = None
        table = table.clone()  # made without gradients, used with them

        def embed(asked: Sequence[str]) -> Tensor:
            found = table[[rows[caption] for caption in asked]]
            return found if head is None else head(found)

        return embed

    def _regions(self, kept: Kept, num_views: int, what: str) -> KeptPictures:
        paths = [[self._path(picture, view) for picture in kept.pictures] for view in range(num_views)]
        total = num_views * len(kept.pictures)
        seen = SeenPictures(self.model, kept.pictures, num_views)
        for view in range(num_views):
            missing = [row for row, path in enumerate(paths[view]) if not path.exists()]
            done = (view + 1) * len(kept.pictures) - len(missing)
            for start in range(0, len(missing), AT_ONCE):
                rows = missing[start : start + AT_ONCE]
                following = missing[start + AT_ONCE : start + 2 * AT_ONCE]
                frames = seen.load(rows, [view] * len(rows))
                seen.ahead(following, [view] * len(following))
                grids = self.model.encode_frames(frames)
                for place, row in enumerate(rows):
                    _keep(grids[place], paths[view][row])
                self.say(what, done + start + len(rows), total)
        return KeptPictures(paths, self.model.device)

    def _path(self, picture: Picture, view: int) -> Path:
        name = hashlib.blake2b(f"{picture.id}:{picture.path}:{view}".encode(), digest_size=12).hexdigest()
        return self.directory / f"regions-{self._digest}" / name[:2] / f"{name[2:]}.npy"


def _keep(grid: RegionGrid, path: Path) -> None:
    """Under a temporary name first: what is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.save(file, torch.cat([grid.pooled, grid.regions[0]]).half().cpu().numpy())
    os.replace(temporary, path)
