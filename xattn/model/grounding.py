"""Every addend of the score of every picture and text, and what a person is shown of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from xattn.geometry import boxes_from_map
from xattn.model.calibration import MOST_NULL, Calibration
from xattn.types import Grounding, Phrase, Size


@dataclass(frozen=True, slots=True)
class Examined:
    """B pictures and N texts, each pair scored with all addends of its score.

    weights: mean over heads, zero on padding; null_weight: the rest of the attention
    contributions: addends of `scores` by region; rest: its other addends, by name
    sizes: (H, W) of each picture's grid
    """

    weights: Float[Tensor, "B N R"]
    null_weight: Float[Tensor, "B N"]
    contributions: Float[Tensor, "B N R"]
    rest: dict[str, Float[Tensor, "B N"]]
    scores: Float[Tensor, "B N"]
    sizes: tuple[Size, ...]

    def rows(self, pictures: Sequence[int]) -> Examined:
        """Of these pictures, in the order given."""
        chosen = torch.tensor(pictures, dtype=torch.long, device=self.scores.device)
        return Examined(
            self.weights[chosen],
            self.null_weight[chosen],
            self.contributions[chosen],
            {name: values[chosen] for name, values in self.rest.items()},
            self.scores[chosen],
            tuple(self.sizes[picture] for picture in pictures),
        )

    def with_texts(self, more: Examined) -> Examined:
        """The same pictures with the texts of both, those of `more` last."""
        return Examined(
            torch.cat([self.weights, more.weights], 1),
            torch.cat([self.null_weight, more.null_weight], 1),
            torch.cat([self.contributions, more.contributions], 1),
            {name: torch.cat([values, more.rest[name]], 1) for name, values in self.rest.items()},
            torch.cat([self.scores, more.scores], 1),
            self.sizes,
        )

    def groundings(
        self, phrases: Sequence[Phrase], sizes: Sequence[Size], calibration: Calibration
    ) -> list[list[Grounding]]:
        """One list per picture, one Grounding per phrase. sizes: of the upright originals, for boxes."""
        c = calibration
        parts = torch.tensor([phrase.source != "whole" for phrase in phrases], device=self.scores.device)
        likely = torch.where(parts, c.phrase_scale * self.scores + c.phrase_bias, self.scores).sigmoid()
        # A whole text is what was searched: how well it matches is what the ranking says.
        missing = (parts & (likely < c.phrase_below)) | (self.null_weight > MOST_NULL)
        weights, contributions = self.weights.cpu().numpy(), self.contributions.cpu().numpy()
        null_weights, scores, probabilities = (
            values.tolist() for values in (self.null_weight, self.scores, likely)
        )
        rest = {name: values.tolist() for name, values in self.rest.items()}
        found = (~missing).tolist()

        def grounding(b: int, n: int) -> Grounding:
            height, width = self.sizes[b]
            grid = weights[b, n, : height * width].reshape(height, width)
            return Grounding(
                phrase=phrases[n],
                weights=grid,
                null_weight=null_weights[b][n],
                contributions=contributions[b, n, : height * width].reshape(height, width),
                rest={name: values[b][n] for name, values in rest.items()},
                score=scores[b][n],
                probability=probabilities[b][n],
                boxes=boxes_from_map(grid, sizes[b]),
                found=found[b][n],
            )

        return [[grounding(b, n) for n in range(len(phrases))] for b in range(len(self.sizes))]
