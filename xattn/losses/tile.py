"""What n texts read in b pictures, as cosines, and the gradient of that, by hand.

It is `CrossAttention.attend` and the cosine, taken apart so that as little as possible is done per pair
and nothing is kept per region but one tensor:

    read      = (e V + e_null v_null) / s,   e = exp(logits - largest), s = Σ e + e_null
    cosine    = (read · u) / |W_o read|      with u = W_oᵀ t once per text
    |W_o read|² = read · G read              with G = W_oᵀ W_o once for all pairs

G read is also half of the gradient of |W_o read|², so one matrix product of width D per pair serves both
ways, where W_o itself would take two. Division by s is left to [n, d] tensors, never done over regions, and
Σ_r w_r · ∂w_r, which the softmax's gradient needs, is read · ∂read (Dao et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SMALLEST_NORM = 1e-12
"""As in torch's `normalize`."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all pairs share."""

    gram: Float[Tensor, "D D"]
    null_key: Float[Tensor, "K d"]
    null_value: Float[Tensor, "K d"]


@dataclass(frozen=True, slots=True)
class Slopes:
    """Gradients of a tile's loss by what the tile was given."""

    query: Float[Tensor, "K n d"]
    target: Float[Tensor, "n D"]
    key: Float[Tensor, "b K R d"]
    value: Float[Tensor, "b K R d"]
    shared: Shared


class Tile:
    """query: as `project_texts`, heads first; target: u above; key, value: as `project_regions`.

    `cosine`, Float[b n], is there at once; `slopes` takes the gradient and can be called once.
    """

    def __init__(
        self,
        query: Float[Tensor, "K n d"],
        target: Float[Tensor, "n D"],
        key: Float[Tensor, "b K R d"],
        value: Float[Tensor, "b K R d"],
        shared: Shared,
        mask: Bool[Tensor, "b R"] | None,
    ) -> None:
        self.query, self.target, self.key, self.value, self.shared = query, target, key, value, shared
        logits = torch.matmul(query, key.transpose(-1, -2))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if mask is not None:
            logits.masked_fill_(~mask[:, None, None, :], -torch.inf)
        null_logits = (query * shared.null_key[:, None]).sum(-1).to(logits.dtype)
        largest = torch.maximum(logits.amax(-1), null_logits)  # [b K n]
        self.null = (null_logits - largest).exp_()
        raised = logits.sub_(largest[..., None]).exp_()
        self.total = raised.sum(-1).add_(self.null)
        self.raised = raised.to(value.dtype)
        null, total = self.null.to(value.dtype), self.total.to(value.dtype)
        read = torch.matmul(self.raised, value)
        read = read.addcmul_(null[..., None], shared.null_value[:, None]).div_(total[..., None])
        self.heads = read  # [b K n d]
        self.read = read.transpose(1, 2).flatten(2)  # [b n D]
        self.turned = self.read @ shared.gram
        self.against = torch.einsum("bnd,nd->bn", self.read, target)
        squared = torch.einsum("bnd,bnd->bn", self.read, self.turned)
        self.inverse = squared.clamp(min=SMALLEST_NORM**2).rsqrt()
        self.cosine = self.against * self.inverse

    def slopes(self, slope: Float[Tensor, "b n"]) -> Slopes:
        """slope: the loss's derivative by the cosines."""
        query, value, shared = self.query, self.value, self.shared
        along = slope * self.inverse
        across = -self.cosine * along * self.inverse  # by half the squared norm
        down = self.turned.mul_(across[..., None]).addcmul_(along[..., None], self.target)
        target = torch.einsum("bn,bnd->nd", along, self.read)
        flat = self.read.flatten(0, 1)
        gram = torch.matmul((flat * across.flatten()[:, None]).T, flat).mul_(0.5)

        total, null = self.total.to(value.dtype), self.null.to(value.dtype)
        heads = down.unflatten(-1, (len(query), -1)).transpose(1, 2) / total[..., None]  # [b K n d]
        mean = (heads * self.heads).sum(-1)
        by_value = torch.matmul(self.raised.transpose(-1, -2), heads)
        logits = torch.matmul(heads, value.transpose(-1, -2)).sub_(mean[..., None]).mul_(self.raised)
        null_logits = (heads * shared.null_value[:, None]).sum(-1).sub_(mean).mul_(null).sum(0)  # [K n]
        by_query = torch.matmul(logits, self.key).sum(0)
        by_query.addcmul_(null_logits[..., None], shared.null_key[:, None])
        by_null_key = torch.einsum("kn,knd->kd", null_logits, query)
        by_null_value = torch.einsum("bkn,bknd->kd", null, heads)
        by_key = torch.matmul(logits.transpose(-1, -2), query)
        return Slopes(by_query, target, by_key, by_value, Shared(gram, by_null_key, by_null_value))
