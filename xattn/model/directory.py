"""Whether a directory is a model's, told without loading anything."""

from __future__ import annotations

import json
from pathlib import Path


def foreign_entry(directory: Path) -> str | None:
    """Name of a file in the way of a model that is to be saved here; None if there is none.

    A directory may be absent, empty but for hidden files, or hold a model that xattn wrote: one whose
    config.json has a format version and an attention section.
    """
    try:
        names = sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))
    except OSError:
        return None
    if not names or is_model_directory(directory):
        return None
    return names[0]


def is_model_directory(directory: Path) -> bool:
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and {"format_version", "attention"} <= config.keys()
