"""Search pictures by text, and see where in each picture each part of the text was found.

    import xattn

    with xattn.open("my-index") as engine:
        engine.add("photos")
        for hit in engine.search("a dog on a beach"):
            print(hit.rank, hit.path, hit.score)

Every name is imported when it is first used: `import xattn` itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xattn.attention import attention_weights
    from xattn.engine import Engine, IndexInfo, ground
    from xattn.engine import open_index as open
    from xattn.errors import (
        CheckpointError,
        DataError,
        ImageError,
        IndexBusy,
        IndexMismatch,
        MissingExtra,
        ModelNotFound,
        QueryError,
        StoreError,
        TrainingStopped,
        XattnError,
    )
    from xattn.model import XAttnModel
    from xattn.model.checkpoint import load_model
    from xattn.types import (
        AddReport,
        Box,
        Grounding,
        Hit,
        Phrase,
        Progress,
        RegionGrid,
        ScoredBox,
        Skipped,
    )

__version__ = "0.1.0"

__all__ = [
    "AddReport",
    "Box",
    "CheckpointError",
    "DataError",
    "Engine",
    "Grounding",
    "Hit",
    "ImageError",
    "IndexBusy",
    "IndexInfo",
    "IndexMismatch",
    "MissingExtra",
    "ModelNotFound",
    "Phrase",
    "Progress",
    "QueryError",
    "RegionGrid",
    "ScoredBox",
    "Skipped",
    "StoreError",
    "TrainingStopped",
    "XAttnModel",
    "XattnError",
    "__version__",
    "attention_weights",
    "ground",
    "load_model",
    "open",
]

_HOMES = {
    "attention": ("attention_weights",),
    "model.checkpoint": ("load_model",),
    "engine": ("Engine", "IndexInfo", "ground", "open"),
    "errors": (
        "CheckpointError",
        "DataError",
        "ImageError",
        "IndexBusy",
        "IndexMismatch",
        "MissingExtra",
        "ModelNotFound",
        "QueryError",
        "StoreError",
        "TrainingStopped",
        "XattnError",
    ),
    "model": ("XAttnModel",),
    "types": (
        "AddReport",
        "Box",
        "Grounding",
        "Hit",
        "Phrase",
        "Progress",
        "RegionGrid",
        "ScoredBox",
        "Skipped",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_RENAMED = {"open": "open_index"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'xattn' has no attribute {name!r}")
    value = getattr(import_module(f"xattn.{_HOME[name]}"), _RENAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
