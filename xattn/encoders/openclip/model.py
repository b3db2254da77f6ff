"""Any open_clip model as a pair of towers.

The pooled embedding of a picture is open_clip's own: its preprocessing, its `encode_image`, unit norm. The
regions are of a second view that shows the whole picture at its own aspect ratio, where open_clip crops or
squeezes it to a square. Where the two views are the same, one pass gives both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from math import log, sqrt
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import VisionTransformer
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from xattn.encoders.base import Frames, TextEncoder, VisionEncoder
from xattn.encoders.openclip.dense import DENSE_METHODS, DenseMethod
from xattn.encoders.openclip.timm_towers import timm_tower
from xattn.encoders.openclip.vision_towers import ResNetTower, Tower, VitTower
from xattn.errors import CheckpointError
from xattn.types import RegionGrid, Size

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LONGEST_ASPECT = 4.0
"""Pictures longer than this are squeezed to it: beyond, positions would be stretched out of all measure."""


@dataclass(frozen=True, slots=True)
class RegionConfig:
    """How regions are made of a picture.

    method:      a dense method (see `xattn.encoders.openclip.dense`), or "auto" for the tower's default
    num_regions: about how many; None: as many as the tower was trained with
    windows:     whether the tower sees the picture through overlapping windows of its own size, which
                 keeps its positions as trained; worth it when num_regions is several times its own
    pooled:      "own" for open_clip's exact embedding; "regions" takes it from the regions' view, which
                 saves a pass but differs from open_clip's
    precision:   of the tower's matrix products: fp32, or bf16 or fp16 where the hardware is faster at them.
                 Weights stay as they are. Like the device it is left out of the encoder's signature: an
                 index made with one serves the others.
    """

    method: str = "auto"
    num_regions: int | None = None
    windows: bool = False
    pooled: str = "own"
    precision: str = field(default="fp32", repr=False)

    def __post_init__(self) -> None:
        if self.method not in ("auto", *DENSE_METHODS):
            raise ValueError(f"unknown method {self.method!r}; valid are auto, {', '.join(DENSE_METHODS)}")
        if self.num_regions is not None and self.num_regions < 1:
            raise ValueError(f"num_regions must be at least 1, got {self.num_regions}")
        if self.pooled not in ("own", "regions"):
            raise ValueError(f"unknown pooled {self.pooled!r}; valid are own, regions")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; valid are {', '.join(PRECISIONS)}")


def tower_of(visual: nn.Module) -> Tower:
    """Wraps open_clip's `model.visual`. Raises CheckpointError for a kind that has no regions to give."""
    if isinstance(visual, VisionTransformer):
        return VitTower(visual)
    if isinstance(visual, ModifiedResNet):
        return ResNetTower(visual)
    if isinstance(visual, TimmModel):
        return timm_tower(visual)
    raise CheckpointError(
        f"maps are not supported for vision towers of type {type(visual).__name__}; supported are "
        "VisionTransformer, ModifiedResNet and TimmModel of open_clip"
    )


def grid_for(size: Size, num_regions: int) -> Size:
    """(H, W) with about num_regions cells and the aspect ratio of a picture (height, width)."""
    aspect = min(max(size[0] / size[1], 1 / LONGEST_ASPECT), LONGEST_ASPECT)
    height, width = sqrt(num_regions * aspect), sqrt(num_regions / aspect)
    candidates = [
        (h, w) for h in (int(height), int(height) + 1) for w in (int(width), int(width) + 1) if h * w
    ]

    def misfit(grid: Size) -> float:
        return abs(log(grid[0] / grid[1] / aspect)) + abs(log(grid[0] * grid[1] / num_regions)) / 2

    return min(candidates or [(1, 1)], key=misfit)


class OpenClipVision(VisionEncoder):
    """open_clip's vision tower. Region r of H×W lies in row r // W, column r % W; unit norm each.

    visual: `model.visual` of an open_clip model; model_config, preprocess_config: its `model_cfg` and
    `preprocess_cfg`
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        visual: nn.Module,
        model_config: dict[str, Any],
        preprocess_config: Mapping[str, Any],
        config: RegionConfig,
    ) -> None:
        super().__init__()
        self.dim = model_config["embed_dim"]
        self.config = config
        self.model_config = model_config
        self.visual = visual
        self._tower = tower_of(visual)
        if config.method not in ("auto", *self._tower.methods):
            raise CheckpointError(
                f"this model cannot do the dense method {config.method!r}; it can do "
                f"{', '.join(self._tower.methods)}"
            )
        auto = config.method == "auto"
        self.method = self._tower.methods[0] if auto else cast(DenseMethod, config.method)
        described = PreprocessCfg(**preprocess_config)
        described.size = self._tower.native
        # Lists, as JSON has them: a model that was saved and loaded is described by the same words.
        self.preprocess_config: dict[str, Any] = json.loads(json.dumps(asdict(described)))
        self.signature = f"openclip {self.method} {config} {sorted(self.preprocess_config.items())}"
        # open_clip's own steps but for the last two, which make a normalised tensor.
        self._own_view = image_transform_v2(described, is_train=False).transforms[:-2]
        self._squash = described.resize_mode == "squash"
        bilinear = described.interpolation == "bilinear"
        self._resample = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
        self.register_buffer("mean", torch.tensor(described.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(described.std).view(3, 1, 1), persistent=False)
        # Twice what is needed: a JPEG decoded at half size is not quite the same picture.
        widest = grid_for((round(LONGEST_ASPECT), 1), self.num_regions)
        self.longest_side = 2 * max(*self._tower.native, widest[0] * self._tower.cell[0])

    @property
    def num_regions(self) -> int:
        """About how many regions a picture gets."""
        height, width = self._tower.grid(self._tower.native)
        return self.config.num_regions or height * width

    def view_size(self, size: Size) -> Size:
        """(height, width) in pixels of the regions' view of a picture (height, width)."""
        tower = self._tower
        if not tower.flexible and not self.config.windows:
            return tower.native
        height, width = grid_for(size, self.num_regions)
        if self.config.windows:  # a window must fit in
            smallest = tower.grid(tower.native)
            height, width = max(height, smallest[0]), max(width, smallest[1])
        return height * tower.cell[0], width * tower.cell[1]

    def preprocess(self, picture: Image.Image) -> Frames:
        """open_clip's own view and the regions' view, or the one that is both."""
        size = (picture.height, picture.width)
        view = self.view_size(size)
        regions = _pixels(picture.resize((view[1], view[0]), self._resample))
        if self.config.pooled == "regions":
            return (regions,)
        own = picture
        for step in self._own_view:
            own = step(own)
        if view == self._tower.native and (self._squash or size[0] == size[1]):
            return (_pixels(own),)
        return _pixels(own), regions

    def features(
        self, pixels: Float[Tensor, "B 3 h w"]
    ) -> tuple[Float[Tensor, "B R D"], Float[Tensor, "B D"]]:
        """Regions and pooled features of normalised pixels, neither of unit norm."""
        return self._tower.encode(pixels, self.method)

    def pooled_features(self, pixels: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B D"]:
        """open_clip's own, of normalised pixels of the size that the tower was trained at."""
        return self._tower.pooled(pixels)

    def sample(self, num_pictures: int) -> Float[Tensor, "B 3 h w"]:
        """Pixels as `features` takes them; of another size than the trained one, if the tower takes any."""
        tower = self._tower
        size = tower.native
        if tower.flexible:
            grid = (3, 5) if tower.grid(tower.native) != (3, 5) else (5, 3)
            size = (grid[0] * tower.cell[0], grid[1] * tower.cell[1])
        weights = next(self.visual.parameters())
        return torch.zeros(num_pictures, 3, *size, dtype=weights.dtype, device=weights.device)

    def forward(self, batch: Sequence[Frames]) -> RegionGrid:
        """Pictures whose views have equal sizes are encoded together."""
        kinds: dict[tuple[Size, ...], list[int]] = {}
        for i, frames in enumerate(batch):
            kinds.setdefault(tuple((f.shape[1], f.shape[2]) for f in frames), []).append(i)
        encoded: dict[int, RegionGrid] = {}
        with self._precise():
            for members in kinds.values():
                grids = self._encode([batch[i] for i in members])
                encoded.update((i, grids[place]) for place, i in enumerate(members))
        return RegionGrid.stack([encoded[i] for i in range(len(batch))])

    def _precise(self) -> AbstractContextManager[Any]:
        """Training chooses its precision itself."""
        if self.training or self.config.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.mean.device.type, PRECISIONS[self.config.precision])

    def _encode(self, batch: Sequence[Frames]) -> RegionGrid:
        view = self.normalised([frames[-1] for frames in batch])
        size = self._tower.grid((view.shape[2], view.shape[3]))
        if self.config.windows:
            regions, pooled = self._through_windows(view)
        else:
            regions, pooled = self.features(view)
            regions = F.normalize(regions.float(), dim=-1)
        if len(batch[0]) == 2:
            pooled = self.pooled_features(self.normalised([frames[0] for frames in batch]))
        return RegionGrid(regions, F.normalize(pooled.float(), dim=-1), (size,) * len(batch))

    def normalised(self, frames: Iterable[UInt8[Tensor, "3 h w"]]) -> Float[Tensor, "B 3 h w"]:
        """Frames of one size as the tower takes them."""
        pixels = torch.stack(list(frames)).to(self.mean.device)
        weights = next(self.visual.parameters())
        return ((pixels.float() / 255 - self.mean) / self.std).to(weights.dtype)

    def _through_windows(
        self, view: Float[Tensor, "B 3 h w"]
    ) -> tuple[Float[Tensor, "B R D"], Float[Tensor, "B D"]]:
        """Mean over windows of each region's unit-norm features, so that its cosine with a text is the
        mean of its cosines; pooled features are the mean of the windows'."""
        tower = self._tower
        rows, columns = tower.grid((view.shape[2], view.shape[3]))
        high, wide = tower.grid(tower.native)
        total = view.new_zeros(len(view), rows, columns, self.dim, dtype=torch.float32)
        count = view.new_zeros(rows, columns, 1, dtype=torch.float32)
        pooled = []
        for top in starts(rows, high):
            for left in starts(columns, wide):
                y, x = top * tower.cell[0], left * tower.cell[1]
                window = view[:, :, y : y + tower.native[0], x : x + tower.native[1]]
                regions, whole = self.features(window.contiguous())
                place = slice(top, top + high), slice(left, left + wide)
                total[:, *place] += F.normalize(regions.float(), dim=-1).unflatten(1, (high, wide))
                count[place] += 1
                pooled.append(whole)
        mean = F.normalize((total / count).flatten(1, 2), dim=-1)
        return mean, torch.stack(pooled).mean(0)


def starts(length: int, window: int) -> list[int]:
    """Where windows begin along one side, in cells: half a window apart, the last at the very end.

    >>> starts(14, 14), starts(28, 14), starts(17, 14)
    ([0], [0, 7, 14], [0, 3])
    """
    last = length - window
    return sorted({*range(0, last, max(1, window // 2)), last})


def _pixels(picture: Image.Image) -> UInt8[Tensor, "3 h w"]:
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


class OpenClipText(TextEncoder):
    """open_clip's text tower: `encode_text`, unit norm.

    clip: an open_clip model, which loses what is not its text side; tokenizer: text → token ids;
    templates: sentences with one {} each. Several make an ensemble: the mean of their embeddings.
    """

    def __init__(
        self, clip: nn.Module, dim: int, tokenizer: Any, templates: Sequence[str] = ("{}",)
    ) -> None:
        super().__init__()
        for part in ("visual", "text_decoder"):
            if hasattr(clip, part):
                delattr(clip, part)
        wrong = [template for template in templates if template.count("{}") != 1]
        if wrong or not templates:
            raise ValueError(f"a template needs exactly one {{}}, got {wrong or 'no template'}")
        self.dim = dim
        self.clip: Any = clip
        self.tokenizer = tokenizer
        self.templates = tuple(templates)
        self.signature = f"openclip {self.templates}"

    def tokenize(self, texts: Sequence[str]) -> Int[Tensor, "N T"]:
        """Token ids, all texts of one length."""
        return self.tokenizer(list(texts)).to(next(self.clip.parameters()).device)

    def features(self, tokens: Int[Tensor, "N T"]) -> Float[Tensor, "N D"]:
        """open_clip's own, not of unit norm."""
        return self.clip.encode_text(tokens)

    def forward(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        if not texts:
            return next(self.clip.parameters()).new_zeros(0, self.dim, dtype=torch.float32)
        filled = [template.replace("{}", text) for text in texts for template in self.templates]
        embeddings = F.normalize(self.features(self.tokenize(filled)).float(), dim=-1)
        if len(self.templates) > 1:
            embeddings = embeddings.unflatten(0, (len(texts), -1)).mean(1)
        return F.normalize(embeddings, dim=-1)
