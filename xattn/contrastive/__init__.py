"""Contrastive learning over every pair of a batch, in bounded memory.

pairs       the loss: global and text-conditioned terms over all pictures × all captions, tiled
tile        one tile of it, with its gradient by hand
exchange    captions of the other processes, with exact gradients
reencode    encoders in chunks, so that their activations no longer bound the batch (GradCache)
"""

from xattn.contrastive.exchange import exchange
from xattn.contrastive.pairs import Kind, PairLoss, Pairs, all_pairs_loss
from xattn.contrastive.reencode import Chunked

__all__ = ["Chunked", "Kind", "PairLoss", "Pairs", "all_pairs_loss", "exchange"]
