"""The losses over logits of one term, tile by tile: sigmoid and InfoNCE."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from xattn.losses.gather import Group, exchange, world_size


class Rule:
    """How logits become loss and slopes. Logits, values and slopes of both terms come together, [2, …]."""

    looks_first = False

    def start(self, positives: Tensor, valid: Tensor | None, precision: torch.dtype) -> None:
        self.positives, self.valid = positives, valid
        self.precision = precision

    def look(self, rows: slice, columns: slice, logits: Tensor) -> None:
        """The first walk, where `looks_first`."""

    def seen(self) -> None:
        """Between the walks."""

    def judge(
        self, rows: slice, columns: slice, logits: Float[Tensor, "2 b n"]
    ) -> tuple[Float[Tensor, " 2"], Float[Tensor, "2 b n"]]:
        """(what the tile adds to the loss, the loss's derivative by its logits)."""
        raise NotImplementedError


class Sigmoid(Rule):
    """−(1/N) Σ over pairs of log σ(±logit)."""

    def judge(self, rows: slice, columns: slice, logits: Tensor) -> tuple[Tensor, Tensor]:
        sign = self.positives[rows, columns].to(logits.dtype) * 2 - 1
        share = sign.new_ones(()) / self.positives.shape[1]
        if self.valid is not None:
            share = self.valid[rows, columns] * share
        values = (F.softplus(-sign * logits) * share).sum((1, 2))
        return values, -sign * (-sign * logits).sigmoid() * share


class InfoNCE(Rule):
    """`losses.info_nce`: the first walk adds up the softmaxes' denominators, the second judges."""

    looks_first = True

    def __init__(self, group: Group | None) -> None:
        self.group = group

    def start(self, positives: Tensor, valid: Tensor | None, precision: torch.dtype) -> None:
        super().start(positives, valid, precision)
        lowest = torch.full((), -torch.inf, dtype=precision, device=positives.device)
        self.row_sums, self.column_sums = (lowest.repeat(2, count) for count in positives.shape)
        self.per_row, per_column = positives.sum(1), positives.sum(0)
        num_rows = (self.per_row > 0).sum()
        if world_size(self.group) > 1:
            dist.all_reduce(per_column, group=self.group)
            dist.all_reduce(num_rows, group=self.group)
        self.per_column = per_column
        self.num_rows, self.num_columns = num_rows.clamp(min=1), (per_column > 0).sum().clamp(min=1)

    def look(self, rows: slice, columns: slice, logits: Tensor) -> None:
        logits = logits.to(self.precision)
        if self.valid is not None:
            logits = logits.masked_fill(~self.valid[rows, columns], -torch.inf)
        self.row_sums[:, rows] = torch.logaddexp(self.row_sums[:, rows], logits.logsumexp(2))
        self.column_sums[:, columns] = torch.logaddexp(self.column_sums[:, columns], logits.logsumexp(1))

    def seen(self) -> None:
        if world_size(self.group) > 1:
            self.column_sums = exchange(self.column_sums[None], self.group).logsumexp(0)

    def judge(self, rows: slice, columns: slice, logits: Tensor) -> tuple[Tensor, Tensor]:
        positives = self.positives[rows, columns]
        counted = None if self.valid is None else self.valid[rows, columns]
        by_row = _one_way(
            logits, self.row_sums[:, rows, None], positives, self.per_row[rows, None], counted
        )
        by_column = _one_way(
            logits, self.column_sums[:, None, columns], positives, self.per_column[None, columns], counted
        )
        values = by_row[0] / self.num_rows + by_column[0] / self.num_columns
        slopes = by_row[1] / self.num_rows + by_column[1] / self.num_columns
        return values / 2, slopes / 2


def _one_way(
    logits: Tensor, sums: Tensor, positives: Tensor, num_positives: Tensor, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Σ −log share of the positives, and its derivative by the logits; one direction, not yet a mean."""
    log_shares = logits - sums
    target = positives.to(logits.dtype) / num_positives.clamp(min=1)
    counted = num_positives > 0 if valid is None else (num_positives > 0) & valid
    slopes = (log_shares.exp() - target).masked_fill(~counted, 0.0)
    return -(log_shares.masked_fill(~positives, 0.0) * target).sum((1, 2)), slopes
