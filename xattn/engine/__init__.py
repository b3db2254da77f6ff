"""The one Python API: add, remove, search, ground."""

from xattn.engine.engine import Engine, open_index
from xattn.engine.grounding import ground
from xattn.engine.maintenance import IndexInfo, index_info, remove_pictures

__all__ = ["Engine", "IndexInfo", "ground", "index_info", "open_index", "remove_pictures"]
