"""What a browser session remembers: small values, nothing of the collection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from xattn.types import Grounding, Hit, Size

ALL = "all"
WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class View:
    """One picture and what was found in it.

    size: of the upright original; rank: of a search result, else None; region: (row, column) of the one
    that the user asked about.
    """

    path: Path
    size: Size
    whole: Grounding
    phrases: tuple[Grounding, ...] = ()
    rank: int | None = None
    region: tuple[int, int] | None = None

    @classmethod
    def of_hit(cls, hit: Hit) -> View:
        return cls(hit.path, hit.size, hit.whole, hit.phrases, hit.rank)

    @property
    def groundings(self) -> tuple[Grounding, ...]:
        """The phrases, or the whole text when it has no parts."""
        return self.phrases or (self.whole,)

    def choices(self) -> list[tuple[str, str]]:
        """(label, value) of what can be shown alone; empty when there is only one thing to show."""
        if not self.phrases:
            return []
        parts = [(part.phrase.text, str(i)) for i, part in enumerate(self.phrases)]
        everything = [("All phrases", ALL)] if len(parts) > 1 else []
        return [*everything, *parts, ("The whole text", WHOLE)]

    def default_choice(self) -> str | None:
        return self.choices()[0][1] if self.phrases else None

    def shown(self, choice: str | None) -> list[tuple[int, Grounding]]:
        """What a choice shows, each with the number of its colour. An unknown choice shows all phrases."""
        numbered = list(enumerate(self.groundings))
        if choice == WHOLE:
            return [(len(self.phrases), self.whole)]
        return [(i, part) for i, part in numbered if str(i) == choice] or numbered


class Look(NamedTuple):
    """How a view is drawn. choice: a value of `View.choices`; opacity: of the strongest tint, 0–1."""

    choice: str | None = None
    opacity: float = 0.55
    heat: bool = True
    boxes: bool = True
