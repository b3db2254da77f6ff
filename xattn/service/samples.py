"""The sample photos: what the page shows to someone who has no index of their own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

PROJECT_DIR = Path(__file__).resolve().parents[2]


class Credit(NamedTuple):
    """Whose photo it is and under which licence."""

    title: str
    license: str
    license_url: str
    photo_page: str


@dataclass(frozen=True)
class Samples:
    """A folder with `photos/`, `credits.json` and `queries.json`, and where their indexes are kept."""

    folder: Path = PROJECT_DIR / "data" / "samples"
    index_root: Path = PROJECT_DIR / ".xattn" / "samples"

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    def exist(self) -> bool:
        return self.photos.is_dir()

    def index_dir(self, fingerprint: str) -> Path:
        """One index a model, so that trying another model costs the first one nothing."""
        return self.index_root / fingerprint[:16]

    @cached_property
    def credits(self) -> dict[str, Credit]:
        """File name → credit, in the order of the file; empty if there is none."""
        file = self.folder / "credits.json"
        if not file.is_file():
            return {}
        entries = json.loads(file.read_text(encoding="utf-8"))
        return {entry["file"]: Credit(*(entry[name] for name in Credit._fields)) for entry in entries}

    @cached_property
    def queries(self) -> list[str]:
        """Queries that have an answer among the photos; empty if there is no list."""
        file = self.folder / "queries.json"
        if not file.is_file():
            return []
        return [entry["query"] for entry in json.loads(file.read_text(encoding="utf-8"))]

    def credit(self, path: Path) -> Credit | None:
        return self.credits.get(path.name) if path.parent == self.photos else None
