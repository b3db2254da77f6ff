"""What an index keeps on disk: a SQLite catalogue and shards of regions."""

from xattn.store.catalogue import Catalogue
from xattn.store.schema import FORMAT_VERSION, Content, FileState, Identity, Picture
from xattn.store.store import CATALOGUE, LOCK, NewContent, NewFile, Store

__all__ = [
    "CATALOGUE",
    "FORMAT_VERSION",
    "LOCK",
    "Catalogue",
    "Content",
    "FileState",
    "Identity",
    "NewContent",
    "NewFile",
    "Picture",
    "Store",
]
