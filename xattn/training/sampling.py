"""Which pictures make a batch: by chance, with general ones mixed in, or hard ones together.

Pictures are known by their places in a list. Batch number i of epoch e is the same in every run with the
same seed: nothing to remember.
"""

from __future__ import annotations

import random
from typing import Protocol, runtime_checkable


@runtime_checkable
class Plan(Protocol):
    """An epoch is `per_epoch` batches."""

    per_epoch: int

    def members(self, epoch: int, index: int) -> list[int]:
        """The pictures of one batch."""


class Shuffled:
    """Each picture once in an epoch, in batches of nearly the same size: none is a rest of one picture."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.per_epoch = max(1, round(count / batch_size))

    def members(self, epoch: int, index: int) -> list[int]:
        order = self.order(epoch)
        start, stop = (len(order) * part // self.per_epoch for part in (index, index + 1))
        return order[start:stop]

    def order(self, epoch: int) -> list[int]:
        order = list(range(self.count))
        random.Random(f"{self.seed}:{epoch}").shuffle(order)
        return order


class Mixed:
    """Batches of own pictures with general ones after them, which come after the own ones in the list.

    An epoch is one of the own pictures; the general ones have epochs of their own length.
    """

    def __init__(self, own: Plan, general: Plan, num_own: int) -> None:
        self.own, self.general = own, general
        self.num_own = num_own
        self.per_epoch = own.per_epoch

    def members(self, epoch: int, index: int) -> list[int]:
        place = divmod(epoch * self.per_epoch + index, self.general.per_epoch)
        return [
            *self.own.members(epoch, index),
            *(self.num_own + member for member in self.general.members(*place)),
        ]
