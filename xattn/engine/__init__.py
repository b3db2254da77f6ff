"""The one Python API: add, remove, search, ground."""

from xattn.engine.engine import Engine, IndexInfo, open_index

__all__ = ["Engine", "IndexInfo", "open_index"]
