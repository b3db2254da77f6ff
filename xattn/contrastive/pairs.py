"""Matching over every picture × every caption of a batch, by the pooled vector and by what a text reads.

    pooled[b, n]   = scale_0 · (pooled_b · t_n)                    + bias_0
    attended[b, n] = scale_1 · cos(what t_n reads in picture b, t_n) + bias_1

Each term is a sigmoid loss (SigLIP, Zhai et al. 2023) or an InfoNCE loss over these logits. The attended
term depends on the pair as a whole, so all of its B·N outputs of width D, and all of its attention, would
have to be held for the backward pass. FLAIR (Xiao et al. 2025), the nearest published method, therefore
draws one caption of each other picture. Here the pairs are walked tile by tile instead, and each tile is
taken back at once: no pair is left out, and memory holds one tile. K and V are projected once per
picture, q once per text; InfoNCE, whose softmax spans all tiles, walks twice and projects twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from xattn.attention import CrossAttention
from xattn.contrastive.exchange import Group, exchange, world_size
from xattn.contrastive.tile import Shared, Tile
from xattn.losses import info_nce, sigmoid_pairs

Kind = Literal["sigmoid", "info_nce"]
Extent = tuple[int, int]
"""Pictures and texts that are worked on together."""

TILE: Extent = (4, 128)
"""With 4 heads and 196 regions, attention and its gradient take about 3 MB: they stay in the caches."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """What the loss is taken over.

    regions, pooled: of B pictures (RegionGrid); mask: True where a region is real
    texts:           N captions, unit norm; in a group of processes those of all (`exchange`)
    positives:       which caption belongs to which picture; any number a picture and a caption
    valid:           False for pairs that count neither as right nor as wrong; positives must be valid
    """

    regions: Float[Tensor, "B R D"]
    pooled: Float[Tensor, "B D"]
    texts: Float[Tensor, "N D"]
    positives: Bool[Tensor, "B N"]
    mask: Bool[Tensor, "B R"] | None = None
    valid: Bool[Tensor, "B N"] | None = None


@dataclass(frozen=True, slots=True)
class PairLoss:
    """total = weights[0] · pooled + weights[1] · attended; the addends carry no gradient.

    In a group of processes these are the parts of the own pictures: summed over processes they are the
    loss of the whole batch.
    """

    total: Float[Tensor, ""]
    pooled: Float[Tensor, ""]
    attended: Float[Tensor, ""]


def all_pairs_loss(
    attention: CrossAttention,
    pairs: Pairs,
    scales: Float[Tensor, " 2"],
    biases: Float[Tensor, " 2"],
    *,
    kind: Kind = "sigmoid",
    weights: tuple[float, float] = (1.0, 1.0),
    tile: Extent | None = TILE,
    group: Group | None = None,
) -> PairLoss:
    """The loss over all B·N pairs: exact, whatever the tile.

    scales, biases: of the pooled and the attended logits; InfoNCE does not depend on biases
    tile:  memory grows with its product; None holds everything, by plain autograd
    group: processes that share the batch, each with its own pictures and the captions of all
    Gradients reach regions, pooled, texts, scales, biases and the attention's parameters, once: there
    is no second derivative through tiles.
    """
    if tile is None:
        return _untiled(attention, pairs, scales, biases, kind, weights, group)
    if min(tile) < 1:
        raise ValueError(f"tile: expected at least one picture and one text, got {tile}")
    parameters = [p for p in attention.parameters() if p.requires_grad]
    given = (pairs.regions, pairs.pooled, pairs.texts, scales, biases)
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (*given, *parameters))
    walk = _Walk(attention, pairs, kind, weights, tile, group, parameters, wanted)
    total, pooled, attended = _Tiled.apply(walk, *given, *parameters)
    return PairLoss(total, pooled, attended)


def _untiled(
    attention: CrossAttention,
    pairs: Pairs,
    scales: Tensor,
    biases: Tensor,
    kind: Kind,
    weights: tuple[float, float],
    group: Group | None,
) -> PairLoss:
    if world_size(group) > 1:
        raise ValueError("without tiles the loss is for one process only: give a tile")
    cosines = (pairs.pooled @ pairs.texts.T, attention.cosine(pairs.regions, pairs.texts, pairs.mask))
    terms = []
    for cosine, scale, bias in zip(cosines, scales, biases, strict=True):
        logits = scale * cosine + bias
        if kind == "sigmoid":
            terms.append(sigmoid_pairs(logits, pairs.positives, pairs.valid))
        else:
            if pairs.valid is not None:
                logits = logits.masked_fill(~pairs.valid, torch.finfo(logits.dtype).min)
            terms.append(info_nce(logits, pairs.positives))
    total = weights[0] * terms[0] + weights[1] * terms[1]
    return PairLoss(total, terms[0].detach(), terms[1].detach())


class _Tiled(torch.autograd.Function):
    """Takes the gradients where it takes the loss, tile by tile, and hands them out in `backward`."""

    @staticmethod
    def forward(ctx: Any, walk: _Walk, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pooled, attended = walk.run(*tensors[:5])
        ctx.gradients = walk.gradients(tensors)
        total = walk.weights[0] * pooled + walk.weights[1] * attended
        ctx.mark_non_differentiable(pooled, attended)
        return total, pooled, attended

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        parts = ctx.gradients
        ctx.gradients = ()
        if not parts:
            raise RuntimeError("the gradients of a tiled loss can be taken once only")
        return None, *(None if part is None else part * gradient for part in parts)


class _Walk:
    """One walk over all tiles: loss, and gradients of what it was given if they are wanted."""

    def __init__(
        self,
        attention: CrossAttention,
        pairs: Pairs,
        kind: Kind,
        weights: tuple[float, float],
        tile: Extent,
        group: Group | None,
        parameters: Sequence[Tensor],
        wanted: bool,
    ) -> None:
        self.attention = attention
        self.positives, self.mask, self.valid = pairs.positives, pairs.mask, pairs.valid
        self.weights = weights
        self.tile = tile
        self.parameters = parameters
        self.wanted = wanted
        self.rule = _Sigmoid() if kind == "sigmoid" else _InfoNCE(group)
        self._sums: dict[int, Tensor] = {}

    def run(
        self, regions: Tensor, pooled: Tensor, texts: Tensor, scales: Tensor, biases: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(pooled, attended) loss."""
        precision = torch.promote_types(texts.dtype, torch.float32)
        self.rule.start(self.positives, self.valid, precision)
        # Detached: what happens here must leave no trace in the graph around it.
        self.given = [t.detach().requires_grad_() for t in (regions, pooled, texts, scales, biases)]
        totals = torch.zeros(2, dtype=precision, device=texts.device)
        if self.rule.looks_first:
            with torch.no_grad():
                for rows, columns, logits in self._tiles():
                    self.rule.look(rows, columns, logits)
            self.rule.seen()
        with torch.set_grad_enabled(self.wanted):
            for rows, columns, logits in self._tiles():
                with torch.no_grad():
                    values, slopes = self.rule.judge(rows, columns, logits.detach().to(precision))
                    totals += values
                if self.wanted:
                    weight = slopes.new_tensor(self.weights)[:, None, None]
                    self._slope = (slopes * weight).to(logits.dtype)
        return totals[0].clone(), totals[1].clone()

    def gradients(self, tensors: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """Of the five given tensors and the parameters."""
        if not self.wanted:
            return ()
        keys = [*self.given, *self.parameters]
        sums = [self._sums.get(id(key)) for key in keys]
        return tuple(
            None if total is None else total.to(tensor.dtype)
            for total, tensor in zip(sums, tensors, strict=True)
        )

    def _tiles(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """(pictures, texts, logits [2, b, n]) of each tile. Between two tiles the caller leaves the
        loss's slope in `_slope`, and the gradients of that tile are added up. Only what is done once per
        picture or text is left to autograd."""
        regions, pooled, texts, scales, biases = self.given
        attention, weight = self.attention, self.attention.out.weight
        query, target = attention.project_texts(texts).transpose(0, 1), texts @ weight
        once = [query, target, weight.T @ weight, attention.null_key, attention.null_value]
        asked, aimed, gram, null_key, null_value = (tensor.detach() for tensor in once)
        shared = Shared(gram, null_key, null_value)
        sums = [self._zeros(tensor) for tensor in once]
        told, factors, offsets = texts.detach(), scales.detach(), biases.detach()
        for rows in _slices(len(regions), self.tile[0]):
            own = _leaf(regions[rows])
            key, value = attention.project_regions(own)
            ends = [self._zeros(key), self._zeros(value)]
            kept_key, kept_value, whole = key.detach(), value.detach(), pooled[rows].detach()
            mask = None if self.mask is None else self.mask[rows]
            for columns in _slices(len(texts), self.tile[1]):
                query_part = asked[:, columns].contiguous()
                with torch.no_grad():
                    part = Tile(query_part, aimed[columns], kept_key, kept_value, shared, mask)
                    cosines = torch.stack([whole @ told[columns].T, part.cosine])
                yield rows, columns, factors[:, None, None] * cosines + offsets[:, None, None]
                if torch.is_grad_enabled():
                    with torch.no_grad():
                        self._take_back(part, cosines, rows, columns, sums, ends)
            if torch.is_grad_enabled():
                self._hand_on([key, value], ends, [own])
                own_sum = self._sums.pop(id(own), None)
                if own_sum is not None:
                    self._sum_of(regions)[rows] = own_sum
        if torch.is_grad_enabled():
            self._hand_on(once, sums, [texts])

    def _take_back(
        self,
        part: Tile,
        cosines: Tensor,
        rows: slice,
        columns: slice,
        sums: list[Tensor],
        ends: list[Tensor],
    ) -> None:
        """Adds one tile's gradients; sums: of what is done once for all, ends: of these keys and values."""
        _, pooled, texts, scales, biases = self.given
        self._sum_of(scales).add_((self._slope * cosines).sum((1, 2)))
        self._sum_of(biases).add_(self._slope.sum((1, 2)))
        slope = self._slope * scales[:, None, None]
        self._sum_of(pooled)[rows] += slope[0] @ texts[columns]
        self._sum_of(texts)[columns] += slope[0].T @ pooled[rows]
        found = part.slopes(slope[1])
        sums[0][:, columns] += found.query
        sums[1][columns] += found.target
        sums[2] += found.shared.gram
        sums[3] += found.shared.null_key
        sums[4] += found.shared.null_value
        ends[0] += found.key
        ends[1] += found.value

    def _hand_on(self, ends: list[Tensor], slopes: list[Tensor], leaves: list[Tensor]) -> None:
        """From what was computed by autograd to leaves and parameters, in single precision at least."""
        used = [(e, s.to(e.dtype)) for e, s in zip(ends, slopes, strict=True) if e.requires_grad]
        sources = [*leaves, *self.parameters]
        if not used:
            return
        found = torch.autograd.grad([e for e, _ in used], sources, [s for _, s in used], allow_unused=True)
        for source, gradient in zip(sources, found, strict=True):
            if gradient is not None:
                self._sum_of(source).add_(gradient)

    @staticmethod
    def _zeros(tensor: Tensor) -> Tensor:
        precision = torch.promote_types(tensor.dtype, torch.float32)
        return torch.zeros_like(tensor, dtype=precision, requires_grad=False)

    def _sum_of(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self._sums:
            # The gradient of all regions is the largest tensor here, and every row is written once.
            large = tensor is self.given[0]
            self._sums[id(tensor)] = torch.zeros_like(tensor.detach()) if large else self._zeros(tensor)
        return self._sums[id(tensor)]


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


class _Rule:
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


class _Sigmoid(_Rule):
    """−(1/N) Σ over pairs of log σ(±logit)."""

    def judge(self, rows: slice, columns: slice, logits: Tensor) -> tuple[Tensor, Tensor]:
        sign = self.positives[rows, columns].to(logits.dtype) * 2 - 1
        share = sign.new_ones(()) / self.positives.shape[1]
        if self.valid is not None:
            share = self.valid[rows, columns] * share
        values = (F.softplus(-sign * logits) * share).sum((1, 2))
        return values, -sign * (-sign * logits).sigmoid() * share


class _InfoNCE(_Rule):
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
