"""The browser page: search with maps, and looking for a text in one picture."""

from xattn.ui.server import launch

__all__ = ["launch"]
