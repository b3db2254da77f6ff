"""Starts the page: the server answers at once, the engine is prepared beside it."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from xattn.errors import StoreError, XattnError

if TYPE_CHECKING:
    from gradio import Blocks
    from gradio.themes import Base

    from xattn.model import XAttnModel
    from xattn.service.search import Backend, Status

STYLE = Path(__file__).with_name("style.css")
MAX_UPLOAD = "100mb"
MAX_SESSIONS = 200


def _ignore(value: object) -> None:
    """Stands for a callback that was not given."""


def launch(
    index_dir: Path | str | None = None,
    model: XAttnModel | str = "default",
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    open_browser: bool = False,
    announce: Callable[[str], None] = _ignore,
    report: Callable[[Status], None] = _ignore,
) -> None:
    """Serves the page until it is interrupted.

    Args:
        index_dir: an index; None: the sample photos, which are indexed at the first start.
        model: a model, or the name or directory of one.
        host: the address to listen on.
        port: None takes the first free one from 7860 on.
        open_browser: open the page in the browser once it answers.
        announce: called with the page's address once it answers.
        report: called with each status of the preparation, on the preparing thread. What goes wrong there
            (an index of another model, an unknown model) is a status, shown on the page too.

    Raises:
        StoreError: there is no such directory.
        XattnError: the port is taken.
    """
    if index_dir is not None and not Path(index_dir).is_dir():
        raise StoreError(
            f"there is no index at {index_dir}; make one with `xattn index FOLDER --index {index_dir}`"
        )
    from xattn.service.search import Backend

    backend = Backend(None if index_dir is None else Path(index_dir), model)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # to leave no files behind
    with suppress(KeyboardInterrupt), running(backend, host=host, port=port, report=report) as url:
        announce(url)
        if open_browser:
            webbrowser.open(url)
        while True:
            time.sleep(3600)


@contextmanager
def running(
    backend: Backend,
    *,
    host: str,
    port: int | None,
    report: Callable[[Status], None] = _ignore,
) -> Iterator[str]:
    """The page being served while the context is entered; gives its address."""
    with ExitStack() as at_end:
        folder = Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="xattn-"))).resolve()
        page, url = _start(backend, folder, host, port)
        at_end.callback(page.close, verbose=False)
        at_end.callback(backend.close)
        backend.start(report)
        yield url


def _start(backend: Backend, folder: Path, host: str, port: int | None) -> tuple[Blocks, str]:
    """The launched page and its address. folder: for files that live as long as the server."""
    _prepare_environment(folder / "uploads")
    # Only now, as Gradio reads the environment.
    import gradio as gr

    from xattn.ui.page import build
    from xattn.ui.render import Renderer

    _check_address(host)
    renderer = Renderer(folder / "overlays")
    gr.set_static_paths(renderer.folder)
    page = build(backend, renderer)
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            max_file_size=MAX_UPLOAD,
            state_session_capacity=MAX_SESSIONS,
            theme=_theme(),
            css_paths=STYLE,
        )
    except OSError as error:
        taken = f"port {port} is" if port is not None else "the ports from 7860 to 7959 are"
        raise XattnError(f"{taken} taken on {host}; choose another with --port") from error
    return page, url


def _check_address(host: str) -> None:
    """Raises XattnError unless this machine can listen on an address."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(address)
    except OSError as error:
        raise XattnError(
            f"this machine cannot listen on {host}: {error.strerror or error}; --host takes 127.0.0.1 "
            "(this machine only), 0.0.0.0 (every network) or one of its addresses"
        ) from error


def _theme() -> Base:
    """Gradio's own with its own fonts, which come from this server. Its semi-bold lacks most letters."""
    from gradio.themes import Default, LocalFont

    return Default(
        primary_hue="sky",
        neutral_hue="slate",
        font=(LocalFont("Source Sans Pro", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"),
    )


def _prepare_environment(uploads: Path) -> None:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    # Gradio asks itself whether it runs, and would ask a proxy where one is set.
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost"]))
