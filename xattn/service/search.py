"""The engine behind the page: it is prepared on a thread of its own, then answers one call at a time."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xattn.engine import Engine, open_index
from xattn.errors import IndexBusy, StoreError, XattnError
from xattn.model import XAttnModel
from xattn.model.checkpoint import load_model
from xattn.service.samples import Samples
from xattn.types import Grounding, Hit, Progress

BUSY_RETRY_SECONDS = 1.0
JOIN_SECONDS = 10.0
"""How long `close` waits for the preparation to end."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """How far the preparation is. message: for people; done of total: pictures, while indexing."""

    stage: Literal["loading", "indexing", "ready", "failed"]
    message: str = ""
    done: int = 0
    total: int = 0


class NotReady(XattnError):
    """The engine is still being prepared, or could not be."""


class _Stopped(Exception):
    """`close` was called during the preparation."""


class Backend:
    """An engine that opens in the background.

    index_dir: the user's own index; None: the samples, which are indexed at the first start.
    Every call waits for its turn: PyTorch uses all cores for one.
    """

    def __init__(
        self, index_dir: Path | None, model: XAttnModel | str, samples: Samples | None = None
    ) -> None:
        self.index_dir = index_dir
        self.samples = samples or Samples()
        self.status = Status("loading", "Loading the model")
        self._model = model
        self._engine: Engine | None = None
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def shows_samples(self) -> bool:
        return self.index_dir is None

    def start(self, report: Callable[[Status], None] = lambda status: None) -> None:
        """Prepares the engine. `report` is called with every new status, on the preparing thread."""
        self._thread = threading.Thread(
            target=self._prepare, args=(report,), name="xattn-prepare", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Ends the preparation, keeping what is indexed, and closes the engine."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=JOIN_SECONDS)
        with self._turn:
            if self._engine is not None:
                self._engine.close()
                self._engine = None
        self.status = Status("failed", "The server is stopping")

    def search(self, text: str, k: int) -> list[Hit]:
        """Raises NotReady, QueryError."""
        engine = self._ready()
        with self._turn:
            return engine.search(text, k)

    def ground(self, path: Path, text: str) -> list[Grounding]:
        """Raises NotReady, QueryError, ImageError."""
        engine = self._ready()
        with self._turn:
            return engine.ground(path, text)

    def num_pictures(self) -> int:
        """Pictures that can be found at this moment."""
        return len(self._ready())

    def model_name(self) -> str:
        return self._ready().model.name

    def nothing_below(self) -> float:
        """Probability of the best match below which a search probably found nothing."""
        return self._ready().model.calibration.nothing_below

    def _ready(self) -> Engine:
        engine, status = self._engine, self.status
        if engine is None or status.stage != "ready":
            so_far = f" ({status.done} of {status.total})" if status.total else ""
            raise NotReady(status.message if status.stage == "failed" else f"{status.message}{so_far}…")
        return engine

    # --- on the preparing thread --------------------------------------------------------------------

    def _prepare(self, report: Callable[[Status], None]) -> None:
        def set_status(status: Status) -> None:
            self.status = status
            report(status)

        try:
            set_status(self.status)
            model = load_model(self._model) if isinstance(self._model, str) else self._model
            if self.index_dir is None:
                engine = self._take(self._open_samples(model))
                self._index_samples(engine, set_status)
            else:
                engine = self._take(open_index(self.index_dir, model))
            engine.search("a warm-up", 1)  # loads the tagger, pages in the index
            if self._stop.is_set():
                raise _Stopped
            set_status(Status("ready", f"Ready, {len(engine)} pictures"))
        except _Stopped:
            pass
        except XattnError as error:
            set_status(Status("failed", str(error)))
        except Exception as error:
            _log.exception("the engine could not be prepared")
            set_status(
                Status("failed", f"The engine could not be started: {type(error).__name__}: {error}")
            )

    def _take(self, engine: Engine) -> Engine:
        """Makes an engine the one that answers; closes it where the backend was closed in the meantime."""
        with self._turn:
            if self._stop.is_set():
                engine.close()
                raise _Stopped
            self._engine = engine
        return engine

    def _open_samples(self, model: XAttnModel) -> Engine:
        if not self.samples.exist():
            raise StoreError(
                f"no index was given and there are no sample photos at {self.samples.photos}; "
                "index a folder with `xattn index FOLDER`, then start `xattn serve`"
            )
        index_dir = self.samples.index_dir(model.feature_fingerprint)
        try:
            return open_index(index_dir, model)
        except IndexBusy:
            raise
        except StoreError as error:
            if not index_dir.is_dir():
                raise
            # Ours alone and quickly made again, unlike an index of the user.
            _log.warning("the index of the sample photos is made again: %s", error)
            shutil.rmtree(index_dir, ignore_errors=True)
            return open_index(index_dir, model)

    def _index_samples(self, engine: Engine, set_status: Callable[[Status], None]) -> None:
        def progress(step: Progress) -> None:
            if self._stop.is_set():
                raise _Stopped
            set_status(Status("indexing", "Indexing the sample photos", step.done, step.total))

        while True:
            try:
                engine.add(self.samples.photos, progress=progress)
                return
            except IndexBusy:
                set_status(
                    Status("indexing", "Another xattn is indexing the sample photos; waiting for it")
                )
                if self._stop.wait(BUSY_RETRY_SECONDS):
                    raise _Stopped from None


def timed_search(backend: Backend, text: str, k: int) -> tuple[list[Hit], float]:
    """Hits and seconds."""
    started = time.perf_counter()
    hits = backend.search(text, k)
    return hits, time.perf_counter() - started
