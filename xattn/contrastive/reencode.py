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

Input = TypeVar("Input")


class Chunked(Generic[Input]):
    """What `encode` gives for all chunks, joined along the first axis, as leaves that collect gradients.

        images = Chunked(encode_images, image_chunks)       # → outputs: (regions, pooled)
        texts = Chunked(encode_texts, text_chunks)          # → outputs: (embeddings,)
        loss(*images.outputs, *texts.outputs).backward()
        images.backward()
        texts.backward()

    encode: one chunk → a tuple of tensors whose first axis runs over its members, and whose other axes do
    not depend on the chunk. It is called twice a chunk, with the same state of the random generators, so
    dropout falls on the same places. It must not change anything else (no batch norm in training mode).
    """

    def __init__(self, encode: Callable[[Input], tuple[Tensor, ...]], chunks: Sequence[Input]) -> None:
        if not chunks:
            raise ValueError("expected at least one chunk, got none")
        self._encode = encode
        self._chunks = chunks
        self._states: list[tuple[Tensor, list[Tensor]]] = []
        parts: list[tuple[Tensor, ...]] = []
        with torch.no_grad():
            for chunk in chunks:
                self._states.append(_random_state())
                parts.append(encode(chunk))
        self._counts = [len(part[0]) for part in parts]
        self.outputs = tuple(torch.cat(column).requires_grad_() for column in zip(*parts, strict=True))

    def backward(self) -> None:
        """Adds to the gradients of all that `encode` uses. The loss must have been taken back before."""
        gradients = [
            torch.zeros_like(output) if output.grad is None else output.grad for output in self.outputs
        ]
        after = _random_state()
        try:
            start = 0
            for chunk, state, count in zip(self._chunks, self._states, self._counts, strict=True):
                _set_random_state(state)
                with torch.enable_grad():
                    outputs = self._encode(chunk)
                used = [
                    (output, gradient[start : start + count])
                    for output, gradient in zip(outputs, gradients, strict=True)
                    if output.requires_grad
                ]
                if used:
                    torch.autograd.backward([o for o, _ in used], [g for _, g in used])
                start += count
        finally:
            _set_random_state(after)


def _random_state() -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _set_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
