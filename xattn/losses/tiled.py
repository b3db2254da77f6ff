"""The loss over all pairs, walked tile by tile in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from xattn.attention import CrossAttention
from xattn.losses.gather import Group
from xattn.losses.pairs import Extent, Kind, Pairs
from xattn.losses.rules import InfoNCE, Sigmoid
from xattn.losses.tile import Shared, Tile


class Tiled(torch.autograd.Function):
    """Takes the gradients where it takes the loss, tile by tile, and hands them out in `backward`."""

    @staticmethod
    def forward(ctx: Any, walk: Walk, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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


class Walk:
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
        self.rule = Sigmoid() if kind == "sigmoid" else InfoNCE(group)
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
        for rows in slices(len(regions), self.tile[0]):
            own = leaf(regions[rows])
            key, value = attention.project_regions(own)
            ends = [self._zeros(key), self._zeros(value)]
            kept_key, kept_value, whole = key.detach(), value.detach(), pooled[rows].detach()
            mask = None if self.mask is None else self.mask[rows]
            for columns in slices(len(texts), self.tile[1]):
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


def leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
