"""What the engine asks of an index."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from jaxtyping import Float32, Int64


class Index(Protocol):
    """Pooled vectors of width `dim` by id, searched by inner product.

    An index holds no truth of its own: the engine fills it from the catalogue and keeps it in step.
    """

    dim: int

    def __len__(self) -> int:
        """Vectors held."""

    @property
    def ids(self) -> Int64[np.ndarray, " N"]:
        """Ids held, in any order."""

    def add(self, ids: Int64[np.ndarray, " N"], vectors: Float32[np.ndarray, "N D"]) -> None:
        """Adds vectors. Raises ValueError if an id is held already or given twice."""

    def remove(self, ids: Int64[np.ndarray, " N"]) -> int:
        """Removes those of the ids that are held; returns how many were."""

    def search(
        self, vectors: Float32[np.ndarray, "Q D"], k: int
    ) -> tuple[Float32[np.ndarray, "Q k"], Int64[np.ndarray, "Q k"]]:
        """Scores and ids, best first; k shrinks to the number of vectors held.

        Raises ValueError if k < 1.
        """
