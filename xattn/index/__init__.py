"""Stage 1 of a search: which pictures are worth a closer look, by their pooled vectors."""

from xattn.index.base import Index
from xattn.index.exact import ExactIndex

__all__ = ["ExactIndex", "Index"]
