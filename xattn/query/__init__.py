"""What a person typed → phrases, each grounded on its own."""

from xattn.query.phrases import MAX_PARSED, Query, parse

__all__ = ["MAX_PARSED", "Query", "parse"]
