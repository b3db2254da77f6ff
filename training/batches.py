"""Random batches: pictures in random views, captions, and texts with and without boxes in them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from training.recipes import Recipe
from xattn.training.features import MAX_REGIONS, ViewFeatures
from xattn.training.gather import PictureFeatures, gather
from xattn.training.pictures import Dataset, Picture
from xattn.training.views import cell_cover
from xattn.types import Size

MIN_COVER = 0.25
"""Cells. Boxes that cover less of a view than this are as good as cropped away."""


@dataclass(frozen=True, slots=True)
class Batch:
    """B pictures with the captions they have; up to M texts per picture that its attention is held to.

    rows: the pictures' places among all records (xattn.training.pictures.Picture)
    captions: rows of the text table; owners: caption n belongs to picture owners[n], -1: to none
    texts: rows for [b, m], 0 on padding; cover: share of region r inside the boxes of text [b, m]
    present: it has boxes in this view; absent: it is a category that the picture lacks. Padding is neither.
    """

    pictures: PictureFeatures
    rows: Int[Tensor, " B"]
    captions: Int[Tensor, " N"]
    owners: Int[Tensor, " N"]
    texts: Int[Tensor, "B M"]
    cover: Float[Tensor, "B M R"]
    present: Bool[Tensor, "B M"]
    absent: Bool[Tensor, "B M"]


def drawn_captions(
    pictures: Sequence[Picture], text_rows: Mapping[str, int], recipe: Recipe, rng: random.Random
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """(rows of captions, owners): `recipe.captions` of each picture, or all; pictures[owners[n]] has n.

    Behind them `recipe.swaps` wrong ones for each of these captions, or all: their owner is -1.
    """
    own: list[tuple[int, int]] = []
    wrong: list[tuple[int, int]] = []
    for b, picture in enumerate(pictures):
        for caption in rng.sample(picture.captions, min(recipe.captions, len(picture.captions))):
            own.append((text_rows[caption], b))
            swapped = picture.wrong.get(caption, ())
            wrong += [
                (text_rows[text], -1) for text in rng.sample(swapped, min(recipe.swaps, len(swapped)))
            ]
    rows, owners = torch.tensor(own + wrong, dtype=torch.long).reshape(-1, 2).T
    return rows, owners


class Sampler:
    """Draws batches; the same seed and calls give the same batches.

    pictures: those to train on, with captions or boxes; text_rows: text → row of the table.
    """

    def __init__(
        self,
        dataset: Dataset,
        pictures: Sequence[Picture],
        features: Sequence[ViewFeatures],
        text_rows: Mapping[str, int],
        recipe: Recipe,
        device: torch.device,
    ) -> None:
        self.pictures = list(pictures)
        self.features = features
        self.text_rows = text_rows
        self.recipe = recipe
        self.device = device
        self.categories = dataset.categories
        self.rng = random.Random(recipe.seed)

    @property
    def steps_per_epoch(self) -> int:
        """Batches are full; the pictures left over come again in another epoch."""
        return len(self.pictures) // self.recipe.batch_size

    def epoch(self) -> Iterator[Batch]:
        self.rng.shuffle(self.pictures)
        size = self.recipe.batch_size
        for step in range(self.steps_per_epoch):
            yield self._batch(self.pictures[step * size : (step + 1) * size])

    def _batch(self, pictures: Sequence[Picture]) -> Batch:
        views = [self.rng.randrange(len(self.features)) for _ in pictures]
        inputs = gather(self.features, views, [picture.row for picture in pictures], self.device)
        rows, owners = drawn_captions(pictures, self.text_rows, self.recipe, self.rng)

        most = self.recipe.region_texts + self.recipe.absent_texts
        texts = torch.zeros(len(pictures), most, dtype=torch.long)
        cover = torch.zeros(len(pictures), most, MAX_REGIONS)
        present = torch.zeros(len(pictures), most, dtype=torch.bool)
        absent = torch.zeros(len(pictures), most, dtype=torch.bool)
        for b, (picture, view) in enumerate(zip(pictures, views, strict=True)):
            held = self._held(picture, view, inputs.sizes[b])
            for m, (name, cells) in enumerate(held):
                texts[b, m] = self.text_rows[name]
                absent[b, m] = cells is None
                if cells is not None:
                    present[b, m] = True
                    cover[b, m, : cells.size] = torch.from_numpy(cells.ravel())
        device = self.device
        return Batch(
            inputs,
            torch.tensor([picture.row for picture in pictures], device=device),
            rows.to(device),
            owners.to(device),
            texts.to(device),
            cover.to(device),
            present.to(device),
            absent.to(device),
        )

    def _held(
        self, picture: Picture, number: int, grid: Size
    ) -> list[tuple[str, Float[np.ndarray, "H W"] | None]]:
        """Texts with the cells their boxes cover, and categories the picture lacks with None."""
        view = self.features[number].views[picture.row]
        held: list[tuple[str, Float[np.ndarray, "H W"] | None]] = []
        for text in self._named(picture):
            cells = cell_cover([view.place(box) for box in picture.places[text]], grid)
            if cells.sum() >= MIN_COVER:
                held.append((text, cells))
        # Without categories the picture was never searched for any: nothing is known to be absent.
        lacking = [name for name in self.categories if name not in picture.places]
        if picture.categories:
            count = min(self.recipe.absent_texts, len(lacking))
            held += [(name, None) for name in self.rng.sample(lacking, count)]
        return held

    def _named(self, picture: Picture) -> list[str]:
        """`recipe.region_texts` texts with boxes. Phrases are rare, so most of them come each time."""
        phrases = [text for text in picture.places if text not in picture.categories]
        categories = [text for text in picture.places if text in picture.categories]
        self.rng.shuffle(phrases)
        self.rng.shuffle(categories)
        most = self.recipe.region_texts
        first, then = most * 3 // 8, most // 2
        ordered = phrases[:first] + categories[:then] + phrases[first:] + categories[then:]
        return ordered[:most]
