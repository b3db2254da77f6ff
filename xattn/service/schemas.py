"""JSON of hits, groundings, indexes and models, defined once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from xattn.encoders.openclip.listing import ModelInfo
    from xattn.engine import IndexInfo
    from xattn.types import Grounding, Hit


def hit_record(hit: Hit) -> dict[str, Any]:
    return {
        "rank": hit.rank,
        "path": os.fspath(hit.path),
        "copies": [os.fspath(path) for path in hit.copies],
        "height": hit.size[0],
        "width": hit.size[1],
        "score": hit.score,
        "probability": hit.probability,
        "whole": grounding_record(hit.whole),
        "phrases": [grounding_record(part) for part in hit.phrases],
    }


def grounding_record(grounding: Grounding) -> dict[str, Any]:
    """`xattn.Grounding` field by field; maps are lists of rows."""
    return {
        "text": grounding.phrase.text,
        "start": grounding.phrase.start,
        "end": grounding.phrase.end,
        "source": grounding.phrase.source,
        "score": grounding.score,
        "probability": grounding.probability,
        "null_weight": grounding.null_weight,
        "found": grounding.found,
        "weights": _rows(grounding.weights),
        "contributions": _rows(grounding.contributions),
        "rest": grounding.rest,
        "boxes": [{"box": list(box), "weight": weight} for box, weight in grounding.boxes],
    }


def info_record(info: IndexInfo) -> dict[str, Any]:
    return {
        "index_dir": os.fspath(info.index_dir),
        "num_pictures": info.num_pictures,
        "num_regions": info.num_regions,
        "num_bytes": info.num_bytes,
        "dim": info.dim,
        "model_name": info.model_name,
        "fingerprint": info.fingerprint,
        "format_version": info.format_version,
    }


def _rows(grid: Float[np.ndarray, "H W"]) -> list[list[float]]:
    """Seven decimals: float32 holds no more of a weight, and 0.1 stays 0.1."""
    rows: list[list[float]] = grid.astype(float).round(7).tolist()
    return rows


def model_record(model: ModelInfo) -> dict[str, Any]:
    return {
        "name": model.name,
        "parameters": None if model.millions is None else round(model.millions * 1e6),
        "height": model.size[0],
        "width": model.size[1],
        "rows": model.grid[0],
        "columns": model.grid[1],
        "maps": model.maps,
        "licence": model.licence,
    }
