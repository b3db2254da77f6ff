"""JSON of hits, groundings, indexes, models and reports, defined once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from xattn.datasets.check import CheckReport
    from xattn.encoders.openclip.listing import ModelInfo
    from xattn.engine import IndexInfo
    from xattn.types import AddReport, Grounding, Hit, Skipped


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


def add_record(report: AddReport, num_pictures: int) -> dict[str, Any]:
    """What `Engine.add` did, file by file. num_pictures: in the index afterwards"""
    kinds = ("added", "updated", "removed", "unchanged", "absent")
    return {
        **{kind: _paths(getattr(report, kind)) for kind in kinds},
        "moved": [{"from": os.fspath(old), "to": os.fspath(new)} for old, new in report.moved],
        "skipped": _skipped(report.skipped),
        "seconds": round(report.seconds, 3),
        "num_pictures": num_pictures,
    }


def remove_record(removed: Iterable[Path], num_pictures: int) -> dict[str, Any]:
    """What `Engine.remove` took out. num_pictures: that remain"""
    return {"removed": _paths(removed), "num_pictures": num_pictures}


def check_record(report: CheckReport) -> dict[str, Any]:
    """`xattn.datasets.check.CheckReport` field by field, and its verdict."""
    content: dict[str, Any] = _plain(asdict(report))
    return {"is_usable": report.is_usable, "is_flawless": report.is_flawless, **content}


def _paths(paths: Iterable[Path]) -> list[str]:
    return [os.fspath(path) for path in paths]


def _skipped(skipped: Sequence[Skipped]) -> list[dict[str, str]]:
    return [{"path": os.fspath(entry.path), "reason": entry.reason} for entry in skipped]


def _plain(value: Any) -> Any:
    """With paths as strings, in the containers that `asdict` gives."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return os.fspath(value) if isinstance(value, Path) else value


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
