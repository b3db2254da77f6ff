"""The log of a run in trackio, which keeps it on this machine and shows it with `trackio show`."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from xattn.errors import MissingExtra
from xattn.training.loop import Log
from xattn.training.settings import Settings

LEFT_OUT = ("step", "steps", "pictures", "seconds")
"""Of an entry: what is no curve."""


@contextlib.contextmanager
def tracking(project: str | None, name: str, settings: Settings, on_entry: Log) -> Iterator[Log]:
    """`on_entry`, and each entry to the project, too, if there is one. A run that goes on is continued.

    Raises MissingExtra.
    """
    if project is None:
        yield on_entry
        return
    if find_spec("trackio") is None:
        raise MissingExtra("trackio", "track", "--track")
    trackio: Any = import_module("trackio")
    with contextlib.redirect_stdout(io.StringIO()):  # it greets at length
        run = trackio.init(
            project,
            name=name,
            config=asdict(settings),
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def log(entry: dict[str, Any]) -> None:
        figures = {k: v for k, v in entry.items() if k not in LEFT_OUT and isinstance(v, int | float)}
        run.log(figures, step=entry["step"])
        on_entry(entry)

    try:
        yield log
    finally:
        with contextlib.redirect_stdout(io.StringIO()):
            trackio.finish()
