"""Random batches: photos of one shape, and the texts that each of them is asked about."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from training.attributes import swapped
from training.photos import Photo, normalised, with_article
from training.recipe import Recipe
from xattn.geometry import coverage
from xattn.types import Size

MIN_COVER = 0.05
"""Cells. Boxes that cover less of the grid give attention nothing to hold to."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B photos of one shape and N texts: captions, phrases with boxes, then others asked of one photo only.

    owners: text n is about photo owners[n]; num_captions, num_phrases: how the texts are divided
    matches: [B, captions + phrases], True where the text is known to be true of the photo
    unknown: [B, captions + phrases], True where it may be true: left out of the loss
    cover: share of each region inside the phrase's boxes; small: share of the photo inside them
    swap_of: for each further text, the text whose attribute it exchanges; -1: name of an absent category
    """

    photos: Sequence[Photo]
    grid: Size
    texts: list[str]
    owners: Int[Tensor, " N"]
    num_captions: int
    num_phrases: int
    matches: Bool[Tensor, "B M"]
    unknown: Bool[Tensor, "B M"]
    cover: Float[Tensor, "P R"]
    area: Float[Tensor, " P"]
    swap_of: Int[Tensor, " S"]


class Sampler:
    """Draws the batches of an epoch; the same seed gives the same batches.

    shapes: number of the shape of each photo; grids: (H, W) of each shape
    """

    def __init__(
        self, photos: Sequence[Photo], shapes: Sequence[int], grids: Sequence[Size], recipe: Recipe
    ) -> None:
        self.photos = list(photos)
        self.grids = grids
        self.recipe = recipe
        self._by_shape: dict[int, list[Photo]] = {}
        for photo, shape in zip(photos, shapes, strict=True):
            self._by_shape.setdefault(shape, []).append(photo)
        # A source without categories was never searched for any: nothing is known to be absent there.
        self._categories: dict[str, list[str]] = {}
        for source in {photo.source for photo in photos}:
            names = {name for photo in photos if photo.source == source for name in photo.categories}
            self._categories[source] = sorted(names)

    @property
    def steps_per_epoch(self) -> int:
        return sum(len(members) // self.recipe.batch_size for members in self._by_shape.values())

    def epoch(self, number: int) -> Iterator[Batch]:
        """Full batches; the photos left over come again in another epoch."""
        rng = random.Random(self.recipe.seed * 1_000_003 + number)
        size = self.recipe.batch_size
        chunks: list[tuple[int, list[Photo]]] = []
        for shape, members in sorted(self._by_shape.items()):
            order = rng.sample(members, len(members))
            chunks += [(shape, order[i : i + size]) for i in range(0, len(order) - size + 1, size)]
        rng.shuffle(chunks)
        for shape, chunk in chunks:
            yield self._batch(chunk, self.grids[shape], random.Random(rng.random()))

    def _batch(self, photos: Sequence[Photo], grid: Size, rng: random.Random) -> Batch:
        captions: list[tuple[str, int]] = []
        phrases: list[tuple[str, int]] = []
        covers: list[Float[np.ndarray, " R"]] = []
        areas: list[float] = []
        for owner, photo in enumerate(photos):
            drawn = rng.sample(photo.captions, min(self.recipe.captions, len(photo.captions)))
            captions += [(caption, owner) for caption in drawn]
            for phrase, cells, area in self._phrases(photo, grid, rng):
                phrases.append((phrase, owner))
                covers.append(cells)
                areas.append(area)
        main = captions + phrases
        further, swap_of = self._further(photos, main, rng)
        matches, unknown = _relations(photos, captions, phrases)
        num_regions = grid[0] * grid[1]
        return Batch(
            photos=photos,
            grid=grid,
            texts=[text for text, _ in main + further],
            owners=torch.tensor([owner for _, owner in main + further], dtype=torch.long),
            num_captions=len(captions),
            num_phrases=len(phrases),
            matches=matches,
            unknown=unknown,
            cover=torch.from_numpy(np.array(covers, np.float32).reshape(-1, num_regions)),
            area=torch.tensor(areas, dtype=torch.float32),
            swap_of=torch.tensor(swap_of, dtype=torch.long),
        )

    def _phrases(
        self, photo: Photo, grid: Size, rng: random.Random
    ) -> list[tuple[str, Float[np.ndarray, " R"], float]]:
        """(text, share of each region inside its boxes, share of the photo inside them)."""
        places = photo.places()
        drawn: list[tuple[str, Float[np.ndarray, " R"], float]] = []
        for text in rng.sample(sorted(places), len(places)):
            if len(drawn) == self.recipe.phrases:
                break
            cells = np.asarray(coverage(np.array(places[text], np.float32), grid), np.float32).ravel()
            if cells.sum() >= MIN_COVER:
                drawn.append((text, cells, float(cells.mean())))
        return drawn

    def _further(
        self, photos: Sequence[Photo], main: Sequence[tuple[str, int]], rng: random.Random
    ) -> tuple[list[tuple[str, int]], list[int]]:
        """Texts asked of one photo only: of it false."""
        further: list[tuple[str, int]] = []
        swap_of: list[int] = []
        left = dict.fromkeys(range(len(photos)), self.recipe.swaps)
        for n in rng.sample(range(len(main)), len(main)):
            text, owner = main[n]
            if not left[owner]:
                continue
            for wrong in swapped(text, photos[owner], rng, min(2, left[owner])):
                further.append((wrong, owner))
                swap_of.append(n)
                left[owner] -= 1
        for owner, photo in enumerate(photos):
            if photo.categories:
                lacking = [n for n in self._categories[photo.source] if n not in photo.categories]
                for name in rng.sample(lacking, min(self.recipe.absent, len(lacking))):
                    further.append((with_article(name), owner))
                    swap_of.append(-1)
        return further, swap_of


def _relations(
    photos: Sequence[Photo], captions: Sequence[tuple[str, int]], phrases: Sequence[tuple[str, int]]
) -> tuple[Bool[Tensor, "B M"], Bool[Tensor, "B M"]]:
    """(matches, unknown).

    Captions match their own photo and are unknown nowhere. A phrase matches where the same words are
    annotated, and is unknown where all its words are said of the photo in other places.
    """
    matches = torch.zeros(len(photos), len(captions) + len(phrases), dtype=torch.bool)
    unknown = torch.zeros_like(matches)
    for n, (_, owner) in enumerate(captions):
        matches[owner, n] = True
    for n, (phrase, owner) in enumerate(phrases, len(captions)):
        name = normalised(phrase)
        for b, photo in enumerate(photos):
            matches[b, n] = b == owner or name in photo.named
            unknown[b, n] = not matches[b, n] and photo.says(phrase)
    return matches, unknown
