"""Losses of training, exact over every pair of a batch.

terms       InfoNCE, sigmoid, attention held to boxes, presence
pairs       what the loss over all pairs takes and returns
all_pairs   that loss: pooled and text-conditioned terms over all pictures × all captions
tiled       the same in bounded memory; rules: its losses; tile: one tile, with its gradient by hand
gather      captions of the other processes, with exact gradients
reencode    encoders in chunks, so that their activations no longer bound the batch (GradCache)
"""

from xattn.losses.all_pairs import all_pairs_loss
from xattn.losses.gather import exchange
from xattn.losses.pairs import Kind, PairLoss, Pairs
from xattn.losses.reencode import Chunked
from xattn.losses.terms import absent_attention, box_attention, info_nce, presence_logits, sigmoid_pairs

__all__ = [
    "Chunked",
    "Kind",
    "PairLoss",
    "Pairs",
    "absent_attention",
    "all_pairs_loss",
    "box_attention",
    "exchange",
    "info_nce",
    "presence_logits",
    "sigmoid_pairs",
]
