"""Progress on standard error, and what is said while a model loads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
from xattn.cli import terminal

if TYPE_CHECKING:
    from xattn.service.search import Status

BURST_SECONDS, FIRST_SECONDS, PACE_SECONDS = 0.5, 2.0, 30.0
"""Updates in the first BURST_SECONDS count as already done; the rate is shown after FIRST_SECONDS and is
that of the last PACE_SECONDS."""


LINE_SECONDS = 10.0
"""Where no bar can be drawn, a line shows the progress about this often."""


DOWNLOADED = ("openclip:", "hf-hub:")
"""Prefixes of models that may be downloaded; as in xattn.model.checkpoint, which is slow to import."""


@contextmanager
def loading(*models: str) -> Iterator[None]:
    """Tells that models are loaded. Downloads draw bars of their own, which a spinner would hide."""
    downloaded = [name for name in models if name.startswith(DOWNLOADED)]
    if not downloaded:
        with terminal.err.status("loading"):
            yield
        return
    if terminal.err.is_terminal:
        terminal.err.print(f"loading {', '.join(map(terminal.plain, downloaded))}")
    yield


class Bar:
    """Progress on standard error: a bar at a terminal, else a line every few seconds.

    A context manager; `update` may name one task after another. note: shown behind the task
    at_once: whether it is drawn before the first update; it would hide what else draws meanwhile
    """

    def __init__(self, task: str, unit: str = "", at_once: bool = True) -> None:
        from rich import progress

        self._task = task
        self._unit = f" {unit}" if unit else ""
        self._last_line = time.monotonic()
        self._pace = _Pace()
        self._at_once = at_once
        self.note = ""
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TextColumn("{task.fields[note]}"),
            console=terminal.err,
            transient=True,
            disable=not terminal.err.is_terminal,
        )
        self._id = self._bar.add_task(task, total=None, rate="", note="")

    def __enter__(self) -> Bar:
        if self._at_once:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, task: str, done: int, total: int) -> None:
        self._bar.start()
        if task != self._task:
            self._task, self._pace = task, _Pace()
            self._bar.reset(self._id, description=task)
        now = time.monotonic()
        speed = self._pace.at(done, now)
        rate = ""
        if speed:
            left = time.strftime("%H:%M:%S", time.gmtime((total - done) / speed))
            rate = f"{speed:.1f}{self._unit}/s, {left} left"
        self._bar.update(self._id, completed=done, total=total, rate=rate, note=self.note)
        if self._bar.disable and now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            parts = (f"{task}: {done} of {total}", rate, self.note)
            terminal.err.print(", ".join(part for part in parts if part))


class _Pace:
    """How fast something advances, over the last half minute.

    What was done before, by an earlier run, comes in one burst at the start: it is not counted.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, done: int, now: float) -> float | None:
        """Per second; None: not known yet."""
        if not self._seen:
            self._seen.append((now, done))
        first, last = self._seen[0], self._seen[-1]
        if len(self._seen) == 1 and now - first[0] < BURST_SECONDS:
            self._seen[0] = (first[0], done)
            return None
        if now - last[0] >= 1:
            self._seen.append((now, done))
        while now - self._seen[0][0] > PACE_SECONDS and len(self._seen) > 2:
            self._seen.popleft()
        started, before = self._seen[0]
        if done == before or now - started < FIRST_SECONDS:
            return None
        return (done - before) / (now - started)


class Preparation:
    """Shows how the page's engine is prepared, by the statuses of `service.search.Backend`."""

    def __init__(self) -> None:
        self._bar: Bar | None = None

    def __enter__(self) -> Preparation:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_bar()

    def announce(self, url: str) -> None:
        """The page answers at this address."""
        terminal.err.print(f"xattn is at {url} (Ctrl+C stops it)")

    def report(self, status: Status) -> None:
        """Called on the preparing thread."""
        if status.stage == "indexing" and status.total:
            if self._bar is None:
                self._bar = Bar(status.message, "pictures")
                self._bar.__enter__()
            self._bar.update(status.message, status.done, status.total)
        elif status.stage in ("ready", "failed"):
            self._end_bar()
            terminal.err.print(f"xattn: {terminal.plain(status.message)}")

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None
