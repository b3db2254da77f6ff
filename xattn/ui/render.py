"""Overlays as files, drawn at the size they are shown at.

The page gets paths: Gradio would encode pictures in memory as PNG, a hundred times slower. The files live
in a folder whose owner removes it; their number is bounded; their names cannot be guessed, because who
knows a name can fetch the file.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageDraw

from xattn import images, overlay
from xattn.errors import ImageError
from xattn.geometry import cell_box
from xattn.types import Size
from xattn.ui.view import Look, View

THUMBNAIL_SIDE = 360
LARGE_SIDE = 960
"""Pixels of the long side. Small photos are enlarged, so that lines and labels are sharp on them too."""
MAX_FILES = 600
"""About 60 MB; the browser has long fetched what is removed."""
MAX_CACHED_BYTES = 96_000_000
MISSING = (96, 96, 104)
"""Colour that stands for a picture whose file can no longer be read."""

_Key = tuple[Path, int, int, int]


class Renderer:
    """Draws views into files in `folder`, which is created. Safe to use from several threads."""

    def __init__(
        self, folder: Path, *, max_files: int = MAX_FILES, max_cached_bytes: int = MAX_CACHED_BYTES
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._max_files = max_files
        self._max_cached_bytes = max_cached_bytes
        self._files: OrderedDict[Path, None] = OrderedDict()
        self._pictures: OrderedDict[_Key, images.Decoded] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="xattn-thumbnail")

    def size_of(self, path: Path) -> Size:
        """Of the upright original. Raises ImageError."""
        return self._load(path, LARGE_SIDE).size

    def is_readable(self, view: View) -> bool:
        try:
            self._load(view.path, LARGE_SIDE)
        except ImageError:
            return False
        return True

    def large_size(self, view: View) -> Size:
        """Of what `large` draws."""
        return _fitted(view.size, LARGE_SIDE)

    def thumbnails(self, views: Sequence[View]) -> list[Path]:
        """One file a view, in order, with the maps of all its phrases and no boxes."""
        return list(self._pool.map(self._thumbnail, views))

    def large(self, view: View, look: Look) -> Path:
        """The view as the user wants to see it, the region asked about framed."""
        picture = self._picture(view, LARGE_SIDE)
        drawn = self._draw(picture, view, look)
        if view.region is not None:
            _frame_region(drawn, view.region, view.whole.weights.shape)
        return self._save(drawn)

    def _thumbnail(self, view: View) -> Path:
        picture = self._picture(view, THUMBNAIL_SIDE)
        return self._save(self._draw(picture, view, Look(boxes=False)))

    def _draw(self, picture: Image.Image, view: View, look: Look) -> Image.Image:
        shown = view.shown(look.choice)
        return overlay.render(
            picture,
            [grounding for _, grounding in shown],
            size=view.size,
            opacity=look.opacity if look.heat else 0.0,
            boxes=look.boxes,
            colors=[overlay.color_of(number) for number, _ in shown],
        )

    def _picture(self, view: View, side: int) -> Image.Image:
        try:
            return self._load(view.path, side).picture
        except ImageError:
            height, width = _fitted(view.size, side)
            return Image.new("RGB", (width, height), MISSING)

    def _load(self, path: Path, side: int) -> images.Decoded:
        """A rendition with long side `side`, from memory where it was used recently."""
        try:
            status = path.stat()
        except (OSError, ValueError):
            return images.load(path)  # raises, and says why
        key = (path, status.st_mtime_ns, status.st_size, side)
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
                return self._pictures[key]
        decoded = images.load(path, at_least=side)
        height, width = _fitted(decoded.size, side)
        picture = decoded.picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
        rendition = images.Decoded(picture, decoded.size)
        with self._lock:
            self._pictures[key] = rendition
            while sum(map(_num_bytes, self._pictures.values())) > self._max_cached_bytes:
                self._pictures.popitem(last=False)
        return rendition

    def _save(self, picture: Image.Image) -> Path:
        file = self.folder / f"{secrets.token_hex(16)}.jpg"
        picture.save(file, "JPEG", quality=90)
        with self._lock:
            self._files[file] = None
            outdated = [
                self._files.popitem(last=False)[0] for _ in range(len(self._files) - self._max_files)
            ]
        for old in outdated:
            old.unlink(missing_ok=True)
        return file


def _num_bytes(rendition: images.Decoded) -> int:
    return 3 * rendition.picture.width * rendition.picture.height


def _fitted(size: Size, side: int) -> Size:
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _frame_region(picture: Image.Image, region: tuple[int, int], grid: tuple[int, ...]) -> None:
    rows, columns = grid
    x1, y1, x2, y2 = cell_box(*region, (rows, columns), (picture.height, picture.width))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((x1, y1, x2 - 1, y2 - 1), outline="black", width=4)
    draw.rectangle((x1 + 1, y1 + 1, x2 - 2, y2 - 2), outline="white", width=2)
