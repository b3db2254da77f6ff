"""The one Python API: add, remove, search, ground."""

from xattn.engine.engine import Engine, IndexInfo, open_index
from xattn.engine.grounding import ground

__all__ = ["Engine", "IndexInfo", "ground", "open_index"]
