"""The one Python API: add, remove, search, ground.

    with xattn.open("my-index") as engine:
        engine.add(Path("photos"))
        for hit in engine.search("a dog on a beach"):
            print(hit.rank, hit.path, hit.score)

A search has two stages: the index proposes pictures by their pooled vectors, then the cross-attention
reads the stored regions of each and scores it. No picture file is opened, no vision tower runs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from xattn import images
from xattn.engine.add import add_pictures
from xattn.engine.grounding import ground, groundable
from xattn.engine.maintenance import IndexInfo, info_of, remove_from
from xattn.engine.places import located
from xattn.engine.ranking import Ranked, rank
from xattn.errors import QueryError
from xattn.index import ExactIndex, Index
from xattn.model import XAttnModel
from xattn.store import Store
from xattn.store.schema import Content, Identity, Picture
from xattn.types import AddReport, Grounding, Hit, Progress, RegionGrid

SCORED_AT_ONCE = 128
"""Pictures whose regions are in memory together: at 300 × 256 float32 regions 39 MB."""


def open_index(index_dir: Path | str, model: XAttnModel | str = "default") -> Engine:
    """Opens the index in a directory, which is created when absent.

    model: as loaded, or a name or path for `xattn.load_model`.
    Raises IndexMismatch if the index was made with other features or by a newer xattn, StoreError if the
    directory holds something else or is damaged, and what `load_model` raises.
    """
    if not isinstance(model, XAttnModel):
        from xattn.model.checkpoint import load_model

        model = load_model(model)
    return Engine(index_dir, model)


class Engine:
    """An open index and the model it was made with. A context manager; usable from several threads.

    Any number of processes may have an index open: they see what another adds on their next search.
    Only one at a time may add or remove; a second gets IndexBusy.
    new_index: makes the empty stage 1 for vectors of the given width.
    """

    def __init__(
        self, index_dir: Path | str, model: XAttnModel, *, new_index: Callable[[int], Index] = ExactIndex
    ) -> None:
        self.index_dir = Path(index_dir).absolute()
        self.model = model
        identity = Identity(model.feature_fingerprint, model.name, model.dim)
        self._store = Store(self.index_dir, identity, former_fingerprint=lambda: model.fingerprint)
        self._index = new_index(model.dim + 1)  # one more for the hubness
        self._synced: tuple[int, int] | None = None  # the catalogue's version that is in the index
        self._lock = threading.Lock()  # held while the index is searched or brought in step

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Releases the files; the engine cannot be used afterwards."""
        self._store.close()

    def __len__(self) -> int:
        """Pictures that can be found."""
        return self._store.catalogue.num_pictures()

    def info(self) -> IndexInfo:
        """What the index holds, as stored at this moment."""
        return info_of(self._store)

    def embeddings(self) -> tuple[list[Path], Float[np.ndarray, "N D"]]:
        """Every picture's path and pooled embedding, float32 of unit norm, to exchange with other tools.

        With a model of open_clip these are its own image embeddings.
        """
        catalogue = self._store.catalogue
        paths: list[Path] = []
        vectors = [np.zeros((0, catalogue.identity.dim), np.float32)]
        with catalogue.snapshot():
            for ids, held in catalogue.vectors_from(0):
                pictures = catalogue.pictures_of(ids.tolist())
                paths += [picture.path for picture in pictures]
                rows = np.searchsorted(ids, [picture.content_id for picture in pictures])
                vectors.append(held[rows])
        return paths, np.concatenate(vectors)

    # --- writing ------------------------------------------------------------------------------------

    def add(
        self,
        paths: Path | str | Sequence[Path | str],
        *,
        progress: Callable[[Progress], None] | None = None,
        batch_size: int | None = None,
        max_pixels: int = images.MAX_PIXELS,
        prune: bool = False,
        reread: bool = False,
    ) -> AddReport:
        """Brings the index in step with picture files and folders (with all folders below them).

        New pictures are encoded; unchanged files are not read; moved files keep their vectors; files
        deleted from a given folder are removed. Where a folder has none of its pictures or lost most of
        many, they may be out of reach: they stay, as the report's `absent`, unless `prune` is set.
        `reread` reads files whose size, times and inode are as stored, too.
        A file that cannot be indexed, such as one of more than `max_pixels` pixels, is reported with the
        reason. Work is committed every few seconds: an interrupted run loses at most that, and the next
        goes on from there.
        `progress` is called on this thread, once for each file. `batch_size` pictures are encoded together,
        by default what suits the device; if a graphics card runs out of memory, half as many from then on.
        Raises IndexBusy if another process is writing, ImageError if one of `paths` does not exist.
        """
        return add_pictures(
            self._store,
            self.model,
            [located(path) for path in _as_list(paths)],
            progress=progress,
            batch_size=batch_size,
            max_pixels=max_pixels,
            prune=prune,
            reread=reread,
        )

    def remove(self, paths: Path | str | Sequence[Path | str]) -> list[Path]:
        """Removes files, or all files below folders, from the index, never from the disk.

        A path that a search returned, and a folder by its name or by that of a link to it, will do.
        Returns what was removed, in order; paths that were not in the index are not an error.
        Raises IndexBusy if another process is writing.
        """
        return remove_from(self._store, _as_list(paths))

    # --- searching ----------------------------------------------------------------------------------

    def search(self, text: str, k: int = 12, *, candidates: int | None = None) -> list[Hit]:
        """The k pictures that match `text` best, with maps of the whole text and of its phrases.

        Files of one content are one hit, which lists them: `path` is there, if any is.

        `[brackets]` in the text mark phrases. candidates: how many pictures the first stage proposes to
        the second, at least k; by default 100 or 4·k, whichever is more.
        Raises QueryError if the text is empty or k or candidates is less than 1.
        """
        if k < 1:
            raise QueryError(f"k must be at least 1, got {k}")
        if candidates is not None and candidates < 1:
            raise QueryError(f"candidates must be at least 1, got {candidates}")
        phrases = groundable(text)
        embeddings = self.model.encode_texts([phrase.text for phrase in phrases])
        num_candidates = max(k, max(100, 4 * k) if candidates is None else candidates)
        ids = self._candidates(embeddings[:1], num_candidates)
        return self._hits(rank(self.model, self._regions(ids), phrases, embeddings, k), k)

    def ground(self, image: Path | str | Image.Image, text: str) -> list[Grounding]:
        """`xattn.ground` with this engine's model: the picture need not be in the index."""
        return ground(image, text, self.model)

    def _sync(self) -> None:
        """Brings the index in step with the catalogue, which this or another process may have changed."""
        catalogue = self._store.catalogue
        with catalogue.snapshot():
            version = catalogue.version()
            if version == self._synced:
                return
            stored, held = catalogue.content_ids(), self._index.ids
            gone = np.setdiff1d(held, stored, assume_unique=True)
            new = np.setdiff1d(stored, held, assume_unique=True)
            if len(gone):
                self._index.remove(gone)
            if len(new):
                for ids, vectors in catalogue.vectors_from(int(new.min())):
                    missing = np.isin(ids, new, assume_unique=True)
                    self._index.add(ids[missing], self._searched(vectors[missing]))
        self._synced = version

    def _candidates(self, query: Float[Tensor, "1 D"], k: int) -> list[int]:
        """Ids of the contents whose pooled vectors are nearest."""
        with self._lock:
            self._sync()
            vector = self.model.stage1_queries(query).cpu().numpy()
            _, ids = self._index.search(vector, k)
        return [int(i) for i in ids[0]]

    def _searched(self, pooled: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D+1"]:
        """What the index holds of pooled vectors."""
        vectors = torch.from_numpy(pooled).to(self.model.device)
        return self.model.stage1_vectors(vectors).cpu().numpy()

    def _regions(self, content_ids: Sequence[int]) -> Iterator[tuple[Sequence[Content], RegionGrid]]:
        """Contents with their stored regions, some at a time."""
        for chunk in _chunks(content_ids, SCORED_AT_ONCE):
            contents, regions = self._store.read(chunk)
            if contents:
                yield contents, self._on_device(regions)

    def _hits(self, ranked: Sequence[Ranked], k: int) -> list[Hit]:
        """The k best of the contents that files have, best score first, equal scores by id."""
        files: dict[int, list[Picture]] = {}
        for picture in self._store.catalogue.pictures_of(entry.content.content_id for entry in ranked):
            files.setdefault(picture.content_id, []).append(picture)
        shown = [entry for entry in ranked if entry.content.content_id in files]
        shown.sort(key=lambda entry: (-entry.score, files[entry.content.content_id][0].picture_id))
        return [_hit(i, files[entry.content.content_id], entry) for i, entry in enumerate(shown[:k], 1)]

    def _on_device(self, grid: RegionGrid) -> RegionGrid:
        device = self.model.device
        if device == torch.device("cpu"):
            return grid
        return RegionGrid(grid.regions.to(device), grid.pooled.to(device), grid.sizes)


def _hit(rank: int, files: Sequence[Picture], ranked: Ranked) -> Hit:
    """files: those of the content, by id, at least one."""
    whole, *parts = ranked.groundings
    there = (file for file in files if os.path.exists(file.path))
    shown = files[0] if len(files) == 1 else next(there, files[0])
    return Hit(
        rank=rank,
        picture_id=shown.picture_id,
        path=shown.path,
        size=ranked.content.size,
        score=whole.score,
        probability=whole.probability,
        whole=whole,
        phrases=tuple(parts),
        copies=tuple(file.path for file in files if file is not shown),
    )


def _as_list(paths: Path | str | Sequence[Path | str]) -> list[Path]:
    return [Path(paths)] if isinstance(paths, Path | str) else [Path(path) for path in paths]


def _chunks(values: Iterable[int], size: int) -> Iterator[list[int]]:
    remaining = iter(values)
    while chunk := list(islice(remaining, size)):
        yield chunk
