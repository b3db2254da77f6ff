"""The values that pass between layers, and the legend of dimensions.

B pictures in a batch, N texts, Q queries (phrases), T tokens, R = H·W regions in row-major order,
D model width, K heads. Sizes are (height, width), points (x, y), boxes xyxy. `weights` are after
softmax, `logits` before it; an `embedding` has unit norm, `features` have not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

Size = tuple[int, int]
"""(height, width)"""


class Box(NamedTuple):
    """Corners in pixels of the EXIF-upright original picture; x2 and y2 are exclusive."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def area(self) -> float:
        return max(0.0, self.x2 - self.x1) * max(0.0, self.y2 - self.y1)


class ScoredBox(NamedTuple):
    """A box found on an attention map, with the share of the map's weight that lies inside it."""

    box: Box
    weight: float


@dataclass(frozen=True, slots=True)
class Phrase:
    """A part of a query that is grounded on its own: `query[start:end]`, brackets excluded."""

    text: str
    start: int
    end: int
    source: Literal["bracket", "noun", "whole"]


@dataclass(frozen=True, slots=True)
class RegionGrid:
    """The region features of B pictures, each covering its whole picture with its own H×W grid.

    regions: Float[B R D], R the largest H·W of the batch; rows past a picture's own H·W are zero
    pooled:  Float[B D], unit norm; what stage 1 searches
    sizes:   (H, W) of each grid; region r lies in row r // W and column r % W
    """

    regions: Float[Tensor, "B R D"]
    pooled: Float[Tensor, "B D"]
    sizes: tuple[Size, ...]

    def __post_init__(self) -> None:
        found = (self.regions.shape[0], self.pooled.shape[0], len(self.sizes))
        if len(set(found)) != 1:
            raise ValueError(f"regions, pooled and sizes disagree on the number of pictures: {found}")
        largest = max((h * w for h, w in self.sizes), default=0)
        if largest > self.regions.shape[1]:
            raise ValueError(f"a grid has {largest} regions but only {self.regions.shape[1]} are held")

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def dim(self) -> int:
        return self.regions.shape[2]

    @property
    def mask(self) -> Bool[Tensor, "B R"]:
        """True where a region belongs to the picture, False on padding."""
        counts = torch.tensor([h * w for h, w in self.sizes], device=self.regions.device)
        return torch.arange(self.regions.shape[1], device=self.regions.device) < counts[:, None]

    def __getitem__(self, picture: int) -> RegionGrid:
        """One picture as a batch of one, without padding."""
        height, width = self.sizes[picture]
        return RegionGrid(
            self.regions[picture : picture + 1 or None, : height * width],
            self.pooled[picture : picture + 1 or None],
            (self.sizes[picture],),
        )

    def take(self, pictures: Sequence[int]) -> RegionGrid:
        """These pictures, in the order given."""
        chosen = torch.tensor(pictures, dtype=torch.long, device=self.regions.device)
        sizes = tuple(self.sizes[picture] for picture in pictures)
        return RegionGrid(self.regions[chosen], self.pooled[chosen], sizes)

    @classmethod
    def stack(cls, grids: Sequence[RegionGrid]) -> RegionGrid:
        """Joins batches into one, padding each to the largest R. `grids` must not be empty."""
        longest = max(grid.regions.shape[1] for grid in grids)
        regions = [
            torch.nn.functional.pad(g.regions, (0, 0, 0, longest - g.regions.shape[1])) for g in grids
        ]
        sizes = tuple(size for grid in grids for size in grid.sizes)
        return cls(torch.cat(regions), torch.cat([g.pooled for g in grids]), sizes)


@dataclass(frozen=True, slots=True)
class Grounding:
    """Where one text was found in one picture, and what each place gave to the score.

    weights:            float32 [H, W], mean over heads; weights.sum() + null_weight == 1
    null_weight:        share of attention that went to no region ("it is not here")
    contributions:      float32 [H, W], what each region added to `score`
    rest:               what is not a region's: {"null", "pooled", "hubness", "bias"} → addend;
                        contributions.sum() + sum(rest.values()) == score
    score:              match logit of this text and this picture
    probability:        of a whole text, that it describes the picture; of a phrase in one, that what it
                        names is there (xattn.model)
    boxes:              strongest first, in pixels of the upright original; may be empty
    found:              False where the picture seems not to have it: it is shown faintly, without boxes
    """

    phrase: Phrase
    weights: Float[np.ndarray, "H W"]
    null_weight: float
    contributions: Float[np.ndarray, "H W"]
    rest: dict[str, float]
    score: float
    probability: float
    boxes: tuple[ScoredBox, ...] = ()
    found: bool = True


@dataclass(frozen=True, slots=True)
class Hit:
    """One picture of a search result.

    rank counts from 1; `score` ranks; `whole` grounds the whole query and has whole.score == score;
    `phrases` ground its parts (empty when the query is one phrase); `size` is that of the upright original;
    `copies` are the other files of the same content, by age in the index.
    """

    rank: int
    picture_id: int
    path: Path
    size: Size
    score: float
    probability: float
    whole: Grounding
    phrases: tuple[Grounding, ...] = ()
    copies: tuple[Path, ...] = ()

    @property
    def groundings(self) -> tuple[Grounding, ...]:
        """What a person is shown: the phrases, or the whole query when it has no parts."""
        return self.phrases or (self.whole,)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was not indexed, and why."""

    path: Path
    reason: str


@dataclass(slots=True)
class AddReport:
    """What `Engine.add` did, file by file.

    absent: files that are not there, but may come back, as on a drive that is not mounted; they stay in
    the index. seconds: of the whole run.
    """

    added: list[Path] = field(default_factory=list)
    updated: list[Path] = field(default_factory=list)
    unchanged: list[Path] = field(default_factory=list)
    moved: list[tuple[Path, Path]] = field(default_factory=list)
    removed: list[Path] = field(default_factory=list)
    absent: list[Path] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    seconds: float = 0.0


class Progress(NamedTuple):
    """Handed to progress callbacks: `done` of `total` pictures, the one just finished."""

    done: int
    total: int
    path: Path
