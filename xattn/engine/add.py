"""Adding pictures: files are hashed and decoded by threads that run a few pictures ahead of the encoder.

scan → stat → (hash → decode → resize)* → encode → commit          * in a thread pool, in order, bounded

Everything after the pool happens on the calling thread, in the order of the scan, so a run's result does
not depend on the threads. What is held in memory is bounded by a few batches of resized pictures and a
few seconds of encoded ones.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from xattn import images
from xattn.encoders import Frames
from xattn.engine.absence import deleted_and_absent, is_gone
from xattn.errors import ImageError
from xattn.model import XAttnModel
from xattn.store import NewContent, NewFile, Store
from xattn.store.schema import FileState
from xattn.types import AddReport, Progress, RegionGrid, Size, Skipped

DECODERS = 2
"""Threads. Pillow releases the interpreter lock; more than this only takes cores from the encoder."""
BATCH_SIZE = 8
BATCH_SIZE_CUDA = 64
"""To begin with, not measured: halved whenever the card's memory does not suffice."""
COMMIT_SECONDS = 3.0
COMMIT_CONTENTS = 256
COMMIT_FILES = 4096


class _Read(NamedTuple):
    """A file that was hashed and, unless its content is known, decoded and resized."""

    path: Path
    state: FileState
    content_hash: bytes
    frames: Frames | None = None
    size: Size | None = None


class _Unchanged(NamedTuple):
    path: Path


class _Refused(NamedTuple):
    """A file that cannot be indexed. `changed`: it could be read, so what is stored of it is outdated."""

    path: Path
    reason: str
    changed: bool


_Outcome = _Read | _Unchanged | _Refused


def add_pictures(
    store: Store,
    model: XAttnModel,
    roots: Sequence[Path],
    *,
    progress: Callable[[Progress], None] | None,
    batch_size: int | None,
    max_pixels: int,
    prune: bool,
    reread: bool,
) -> AddReport:
    """Brings the store in step with the files at and below `roots`, which are absolute.

    batch_size: pictures encoded together, None for the device's usual; less where memory does not suffice.
    prune: remove absent files, too; reread: hash every file, also those whose state is as stored.
    If anything raises, KeyboardInterrupt included, what was committed until then stays.
    Raises IndexBusy if someone else is writing, ImageError if a root does not exist.
    """
    started = time.monotonic()
    with store.writing():
        addition = _Addition(store, model, progress, batch_size, max_pixels, reread=reread)
        report = addition.run(roots, prune)
    report.seconds = time.monotonic() - started
    return report


class _Addition:
    """One run of `add_pictures`."""

    def __init__(
        self,
        store: Store,
        model: XAttnModel,
        progress: Callable[[Progress], None] | None,
        batch_size: int | None,
        max_pixels: int,
        *,
        reread: bool,
    ) -> None:
        self._store = store
        self._model = model
        self._progress = progress
        self._batch_size = batch_size or (BATCH_SIZE_CUDA if model.device.type == "cuda" else BATCH_SIZE)
        self._max_pixels = max_pixels
        self._reread = reread
        self._report = AddReport()
        self._hashes = (
            store.catalogue.hashes()
        )  # stored or on the way; decoders look, only this thread adds
        self._batch: list[_Read] = []  # to be encoded
        self._contents: list[NewContent] = []  # to be committed, and so are the files
        self._files: list[NewFile] = []
        self._moved: set[Path] = set()
        self._outdated: list[Path] = []
        self._last_commit = time.monotonic()
        self._done = 0
        self._total = 0

    def run(self, roots: Sequence[Path], prune: bool) -> AddReport:
        paths: list[Path] = []
        for found in images.scan(roots):
            if isinstance(found, Skipped):
                self._report.skipped.append(found)
            else:
                paths.append(found)
        self._total = len(paths)
        for outcome in self._outcomes(paths):
            self._take(outcome)
            if len(self._batch) >= self._batch_size:
                self._encode()
            if self._commit_is_due():
                self._commit()
        self._commit()
        self._forget_vanished(roots, set(paths), prune)
        return self._report

    # --- ahead of the encoder -------------------------------------------------------------------------

    def _outcomes(self, paths: Sequence[Path]) -> Iterator[_Outcome]:
        """What became of each file, in order."""
        ahead = 2 * self._batch_size + DECODERS
        started: deque[_Outcome | Future[_Outcome]] = deque()
        pool = ThreadPoolExecutor(DECODERS, thread_name_prefix="xattn-decode")
        try:
            for path in paths:
                started.append(self._start(path, pool))
                if len(started) > ahead:
                    yield _finished(started.popleft())
            while started:
                yield _finished(started.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _start(self, path: Path, pool: ThreadPoolExecutor) -> _Outcome | Future[_Outcome]:
        known = None if self._reread else self._store.catalogue.file(path)
        if known is not None and _state(path) == known[1]:
            return _Unchanged(path)
        return pool.submit(self._read, path)

    def _read(self, path: Path) -> _Outcome:
        """On a decoder's thread."""
        hashed = False
        try:
            state = FileState.of(path)
            with path.open("rb") as file:
                content_hash = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
            hashed = True
            if content_hash in self._hashes:
                return _Read(path, state, content_hash)
            picture, size = images.load(
                path, at_least=self._model.vision.longest_side, max_pixels=self._max_pixels
            )
            frames = self._model.preprocess(picture)
            if FileState.of(path) != state:
                return _Refused(path, "it changed while it was read; add it again", changed=True)
            return _Read(path, state, content_hash, frames, size)
        except ImageError as error:
            return _Refused(path, error.reason, changed=hashed)
        except OSError as error:
            return _Refused(path, f"it cannot be read: {error.strerror or error}", changed=False)

    # --- the calling thread ---------------------------------------------------------------------------

    def _take(self, outcome: _Outcome) -> None:
        match outcome:
            case _Unchanged(path):
                self._report.unchanged.append(path)
                self._tick(path)
            case _Refused(path, reason, changed):
                self._report.skipped.append(Skipped(path, reason))
                if changed and self._store.catalogue.file(path) is not None:
                    self._outdated.append(path)
                self._tick(path)
            case _Read(path, state, content_hash):
                self._files.append(NewFile(path, content_hash, state, self._classify(outcome)))
                if content_hash in self._hashes:
                    self._tick(path)
                else:
                    self._hashes.add(content_hash)
                    self._batch.append(outcome)

    def _classify(self, read: _Read) -> Path | None:
        """Enters the file in the report; returns where it was moved from, if it was."""
        known = self._store.catalogue.file(read.path)
        if known is not None:
            same = known[0] == read.content_hash
            (self._report.unchanged if same else self._report.updated).append(read.path)
            return None
        content_id = self._store.catalogue.content_id(read.content_hash)
        if content_id is not None:
            for picture in self._store.catalogue.pictures_of([content_id]):
                if picture.path not in self._moved and is_gone(picture.path):
                    self._moved.add(picture.path)
                    self._report.moved.append((picture.path, read.path))
                    return picture.path
        self._report.added.append(read.path)
        return None

    def _encode(self) -> None:
        batch, self._batch = self._batch, []
        while batch:
            part = batch[: self._batch_size]
            grids = self._encode_or_halve(part)
            if grids is not None:
                self._keep(part, grids)
                batch = batch[len(part) :]

    def _encode_or_halve(self, batch: Sequence[_Read]) -> RegionGrid | None:
        """None if the batch was too large for the graphics card; the batch size is then halved for good.

        Raises torch.OutOfMemoryError if there is not memory enough for a single picture.
        """
        try:
            return self._model.encode_frames([read.frames for read in batch if read.frames is not None])
        except torch.cuda.OutOfMemoryError:
            if len(batch) == 1:
                raise
            self._batch_size = len(batch) // 2
        torch.cuda.empty_cache()  # only here: the error holds on to the tensors of the attempt
        return None

    def _keep(self, batch: Sequence[_Read], grids: RegionGrid) -> None:
        """Takes down what is to be committed of encoded pictures."""
        regions = grids.regions.to("cpu", torch.float16).numpy()
        pooled = grids.pooled.float().cpu().numpy()
        for i, read in enumerate(batch):
            assert read.size is not None
            height, width = grid = grids.sizes[i]
            # A copy: a view would keep the padding of the whole batch alive until the commit.
            rows = regions[i, : height * width].copy()
            self._contents.append(NewContent(read.content_hash, read.size, grid, rows, pooled[i]))
            self._tick(read.path)

    def _commit_is_due(self) -> bool:
        return (
            len(self._contents) >= COMMIT_CONTENTS
            or len(self._files) >= COMMIT_FILES
            or (bool(self._files) and time.monotonic() - self._last_commit > COMMIT_SECONDS)
        )

    def _commit(self) -> None:
        self._encode()  # a file may only be committed with its content
        if self._files:
            self._store.write(self._contents, self._files)
            self._contents, self._files = [], []
        self._last_commit = time.monotonic()

    def _forget_vanished(self, roots: Sequence[Path], scanned: set[Path], prune: bool) -> None:
        """Removes deleted files, those of folders marked by `.nomedia`, and with `prune` absent ones."""
        folders = [root for root in roots if root.is_dir()]
        known = {path for folder in folders for path in self._store.catalogue.paths_at(folder)}
        vanished = [path for path in sorted(known - scanned) if is_gone(path)]
        deleted, absent = deleted_and_absent(known, scanned, vanished)
        if prune:
            deleted, absent = vanished, []
        self._report.absent = absent
        marked = {
            skipped.path for skipped in self._report.skipped if skipped.reason == images.MARKED_REASON
        }
        hidden = [path for path in known - scanned if not marked.isdisjoint(path.parents)]
        self._report.removed = sorted({*deleted, *self._outdated, *hidden})
        if self._report.removed:
            self._store.forget(self._report.removed)
        self._store.reclaim()

    def _tick(self, path: Path) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(Progress(self._done, self._total, path))


def _finished(started: _Outcome | Future[_Outcome]) -> _Outcome:
    return started.result() if isinstance(started, Future) else started


def _state(path: Path) -> FileState | None:
    try:
        return FileState.of(path)
    except OSError:
        return None
