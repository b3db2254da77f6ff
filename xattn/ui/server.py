"""Starts the page: the server answers at once, the engine is prepared beside it."""

from __future__ import annotations

import os
import signal
import threading
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from xattn import terminal
from xattn.errors import StoreError

if TYPE_CHECKING:
    from xattn.model import XAttnModel
    from xattn.ui.backend import Backend, Status

STYLE = Path(__file__).with_name("style.css")
MAX_UPLOAD = "100mb"
FIRST_PORT = 7860


class PortTaken(StoreError):
    pass


def launch(
    index_dir: Path | str | None = None,
    model: XAttnModel | str = "default",
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    open_browser: bool = False,
) -> None:
    """Serves the page until it is interrupted.

    index_dir: an index; None: the sample photos, which are indexed at the first start.
    port: None: the first free one from 7860 on.
    """
