"""Picture files: which there are, and decoding that no file can harm.

decode      one file → an upright RGB picture, or an ImageError with the reason
pixels      any mode of pixels → upright 8-bit RGB
scan        the picture files at and below given paths
similar     pictures that look the same
sniff       what a file is by its first bytes
"""

from xattn.images.decode import (
    EXTENSIONS,
    MAX_PIXELS,
    UNREADABLE_EXTENSIONS,
    Decoded,
    load,
)
from xattn.images.pixels import upright
from xattn.images.scan import MARKED_REASON, scan
from xattn.images.sniff import FORMATS

__all__ = [
    "EXTENSIONS",
    "FORMATS",
    "MARKED_REASON",
    "MAX_PIXELS",
    "UNREADABLE_EXTENSIONS",
    "Decoded",
    "load",
    "scan",
    "upright",
]
