"""Encoders in chunks: the batch is bounded by its embeddings, not by the encoders' activations.

GradCache (Gao et al. 2021): encode every chunk without a graph, take the loss over all embeddings, then
encode chunk by chunk again, with a graph, and hand each its part of the embeddings' gradient. The result
is the gradient of one large batch, which accumulation over small batches is not: there a caption never
meets the pictures of another batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

Input = TypeVar("Input")


class Chunked(Generic[Input]):
    """What `encode` gives for all chunks, joined along the first axis, as leaves that collect gradients.

        images = Chunked(encode_images, image_chunks)       # → outputs: (regions, pooled, mask)
        texts = Chunked(encode_texts, text_chunks)          # → outputs: (embeddings,)
        loss(*images.outputs, *texts.outputs).backward()
        images.backward()
        texts.backward()

    encode: one chunk → a tuple of tensors whose first axis runs over its members. Other axes may differ
    between chunks: all are filled with zeros to the longest. Tensors of whole numbers or truth values are
    joined only. It is called twice for each chunk but the last, whose graph is kept, with the same state of
    the random generators, so dropout falls on the same places. It must not change anything else (no batch
    norm in training mode).
    """

    def __init__(self, encode: Callable[[Input], tuple[Tensor, ...]], chunks: Sequence[Input]) -> None:
        if not chunks:
            raise ValueError("expected at least one chunk, got none")
        self._encode = encode
        self._chunks = chunks[:-1]
        self._states: list[tuple[Tensor, list[Tensor]]] = []
        parts: list[tuple[Tensor, ...]] = []
        with torch.no_grad():
            for chunk in self._chunks:
                self._states.append(_random_state())
                parts.append(encode(chunk))
        # What the last one holds until `backward` is what every chunk will hold in its turn.
        self._last = encode(chunks[-1])
        parts.append(tuple(part.detach() for part in self._last))
        self.outputs = tuple(_joined(column) for column in zip(*parts, strict=True))
        self._starts = [0]
        for part in parts:
            self._starts.append(self._starts[-1] + len(part[0]))

    def backward(self) -> None:
        """Adds to the gradients of all that `encode` uses. The loss must have been taken back before."""
        self._take_back(self._last, self._starts[-2])
        self._last = ()
        after = _random_state()
        try:
            for chunk, state, start in zip(self._chunks, self._states, self._starts, strict=False):
                _set_random_state(state)
                with torch.enable_grad():
                    self._take_back(self._encode(chunk), start)
        finally:
            _set_random_state(after)

    def _take_back(self, encoded: tuple[Tensor, ...], start: int) -> None:
        ends: list[Tensor] = []
        slopes: list[Tensor] = []
        for output, joined in zip(encoded, self.outputs, strict=True):
            if output.requires_grad and joined.grad is not None:
                place = (slice(start, start + len(output)), *(slice(size) for size in output.shape[1:]))
                ends.append(output)
                slopes.append(joined.grad[place])
        if ends:
            torch.autograd.backward(ends, slopes)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Parts along the first axis, the other axes filled with zeros to the longest; a leaf."""
    longest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    filled = []
    for part in parts:
        missing = [side - own for side, own in zip(longest, part.shape[1:], strict=True)]
        # F.pad counts from the last axis on.
        amounts = [amount for side in reversed(missing) for amount in (0, side)]
        filled.append(F.pad(part, amounts) if any(missing) else part)
    whole = torch.cat(filled)
    return whole.requires_grad_() if whole.is_floating_point() else whole


def _random_state() -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _set_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
