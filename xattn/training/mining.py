"""Hard negatives: pictures that the model as it is confuses are put into one batch, to be told apart.

    hardness(i, j) = max over captions t of j of cos(picture i, t), and the same with i and j exchanged

Pictures that say or show nearly the same are no negatives of each other: where two captions, or the two
pictures, are nearer than `same_text` or `same_picture` by the model's own cosines, they are not brought
together. Mined anew every `hard_every` epochs, from then on that many are through. What was mined is kept
in a file, so that a run that goes on has the same batches as one that was never interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xattn.errors import CheckpointError
from xattn.training import parallel
from xattn.training.sampling import Shuffled
from xattn.training.settings import Settings

NUM_NEIGHBOURS = 16
ROWS = 256
"""Pictures that are compared with all others at once."""

Embedded = tuple[Float[Tensor, "N D"], Float[Tensor, "M D"], Int[Tensor, " M"]]
"""Unit-norm embeddings of all pictures and of all their captions, and whose caption each is, ascending."""


class Hard(Shuffled):
    """Groups of pictures that are hard to tell apart, by chance which; before any mining, pictures by
    chance. Each picture once in an epoch, as ever."""

    def __init__(self, count: int, settings: Settings, batch_size: int) -> None:
        super().__init__(count, batch_size, settings.seed)
        self.group_size = settings.hard_group
        self.neighbours: Int[np.ndarray, "N K"] | None = None

    def order(self, epoch: int) -> list[int]:
        order = super().order(epoch)
        return order if self.neighbours is None else grouped(order, self.neighbours, self.group_size)


class Miner:
    """Called with each epoch before its first batch, and before the first one after a run went on.

    embed: with the model as it is then; directory: where what was mined is kept; key: of the run
    """

    def __init__(
        self, plan: Hard, embed: Callable[[], Embedded], settings: Settings, directory: Path, key: str
    ) -> None:
        self.plan, self.embed, self.settings = plan, embed, settings
        self.directory, self.key = directory, key

    def __call__(self, epoch: int, is_begun: bool) -> None:
        """is_begun: steps of this epoch were done before, with a model that is no longer there.

        Raises CheckpointError if what was mined for it then is gone.
        """
        mined = epoch - epoch % self.settings.hard_every
        if mined == 0:
            return
        path = self.directory / f"mined-{self.key[:8]}-{mined}.npy"
        if not parallel.from_main(path.is_file()):
            if is_begun or mined != epoch:
                raise CheckpointError(f"{path} is gone, so the run cannot go on: --restart begins anew")
            found = nearest_wrong(*self.embed(), self.settings)
            if parallel.is_main():
                _keep(found, path)
            parallel.from_main(None)  # which waits for the file
        self.plan.neighbours = np.load(path)


def _keep(found: Int[np.ndarray, "N K"], path: Path) -> None:
    """Under a temporary name first: what is there is whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        np.save(file, found)
    os.replace(temporary, path)


@torch.no_grad()
def nearest_wrong(
    pooled: Float[Tensor, "N D"], texts: Float[Tensor, "M D"], owners: Int[Tensor, " M"], settings: Settings
) -> Int[np.ndarray, "N K"]:
    """For each picture those that it is most easily taken for, the hardest first; -1 where there are no
    more."""
    count = len(pooled)
    found = np.full((count, min(NUM_NEIGHBOURS, count - 1)), -1, np.int32)
    for start in range(0, count, ROWS):
        rows = slice(start, min(start + ROWS, count))
        own = (owners >= rows.start) & (owners < rows.stop)
        shift = owners[own] - rows.start
        there = _best(pooled[rows] @ texts.T, owners, count)
        back = _best((texts[own] @ pooled.T).T, shift, rows.stop - rows.start).T
        said = _best(_best(texts[own] @ texts.T, owners, count).T, shift, rows.stop - rows.start).T
        shown = pooled[rows] @ pooled.T
        hardness = torch.maximum(there, back)
        same = (said >= settings.same_text) | (shown >= settings.same_picture)
        hardness[same] = -torch.inf
        hardness[torch.arange(len(hardness)), torch.arange(rows.start, rows.stop)] = -torch.inf
        values, places = hardness.topk(found.shape[1])
        found[rows] = places.masked_fill(values.isinf(), -1).cpu().numpy()
    return found


def _best(values: Float[Tensor, "A M"], owners: Int[Tensor, " M"], count: int) -> Float[Tensor, "A N"]:
    """The highest value of each owner; without any, lower than any cosine."""
    lowest = values.new_full((len(values), count), -2.0)
    return lowest.scatter_reduce_(1, owners.to(values.device).expand_as(values), values, "amax")


def grouped(order: Sequence[int], neighbours: Int[np.ndarray, "N K"], size: int) -> list[int]:
    """The same pictures, each followed by up to size - 1 of its neighbours that are still free."""
    free = dict.fromkeys(order)
    found = []
    while free:
        first = next(iter(free))
        near = [int(other) for other in neighbours[first] if int(other) in free and int(other) != first]
        for member in (first, *near[: size - 1]):
            del free[member]
            found.append(member)
    return found
