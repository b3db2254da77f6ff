"""open_clip's towers as xattn's encoders: pooled embeddings are its own, maps point at the right cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from tests.tiny_clip import DIM, FAMILIES, FIXED, VIT, noise, tiny_clip
from xattn.attention import CrossAttention
from xattn.encoders import TextEncoder
from xattn.encoders.openclip.dense import DENSE_METHODS
from xattn.encoders.openclip.model import (
    OpenClipText,
    OpenClipVision,
    RegionConfig,
    grid_for,
    starts,
    tower_of,
)
from xattn.encoders.openclip.names import Loaded, build_clip
from xattn.errors import CheckpointError
from xattn.model import Calibration, XAttnModel
from xattn.model.zero_shot import assemble

PICTURES = [noise(90, 130), noise(64, 64, 1), noise(130, 90, 2), noise(91, 131, 3)]


def vision_of(loaded: Loaded, **config: Any) -> OpenClipVision:
    parts = (loaded.clip.visual, loaded.model_config, loaded.preprocess_config)
    return OpenClipVision(*parts, RegionConfig(**config)).eval()


@pytest.mark.parametrize(
    ("family", "resize_mode"),
    [
        ("vit", "longest"),
        ("swin", "squash"),
        *((family, mode) for family in FAMILIES for mode in ("shortest", "squash")),
    ],
)
def test_pooled_embeddings_are_open_clips_own(family: str, resize_mode: str) -> None:
    """Its preprocessing and its `encode_image`, for wide, tall and square pictures in one batch."""
    loaded = tiny_clip(family, resize_mode)
    transform = image_transform_v2(PreprocessCfg(**loaded.preprocess_config), is_train=False)
    vision = vision_of(loaded)
    with torch.inference_mode():
        expected = loaded.clip.encode_image(torch.stack([transform(p) for p in PICTURES]), normalize=True)
        found = vision([vision.preprocess(picture) for picture in PICTURES])
    torch.testing.assert_close(found.pooled, expected, atol=1e-5, rtol=1e-5)
    if family in FIXED:
        assert set(found.sizes) == {(8, 8)}
    else:
        assert found.sizes[0][0] < found.sizes[0][1]
        assert found.sizes[2] == found.sizes[0][::-1]
    norms = found.regions.norm(dim=-1)
    torch.testing.assert_close(norms, found.mask.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("family", [*FAMILIES, *FIXED])
def test_lower_precision_changes_little_and_no_signature(family: str, precision: str) -> None:
    exact, rough = (vision_of(tiny_clip(family), precision=p) for p in ("fp32", precision))
    with torch.inference_mode():
        expected, found = (vision([vision.preprocess(p) for p in PICTURES]) for vision in (exact, rough))
    for a, b in ((expected.pooled, found.pooled), (expected.regions, found.regions)):
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)
        torch.testing.assert_close(b, a, atol=0.02, rtol=0)
    assert rough.signature == exact.signature


def test_precision_is_left_to_training_there() -> None:
    vision = vision_of(tiny_clip("vit"), precision="bf16").train()
    exact = vision_of(tiny_clip("vit")).train()
    frames = [exact.preprocess(picture) for picture in PICTURES]
    torch.testing.assert_close(vision(frames).pooled, exact(frames).pooled, atol=1e-6, rtol=0)


def test_no_product_under_autocast_copies_weights_for_each_token() -> None:
    """Such as torch's MultiheadAttention makes of its first one: a batch of products, one a token."""
    vision = vision_of(tiny_clip("vit"), precision="bf16")
    frames = [vision.preprocess(noise(64, 64, seed)) for seed in range(3)]
    with torch.inference_mode(), torch.profiler.profile(record_shapes=True) as profile:
        vision(frames)
    weights = {tuple(p.shape) for p in vision.parameters() if p.ndim == 2}
    weights |= {shape[::-1] for shape in weights}
    shapes = [tuple(shape) for e in profile.events() if e.name == "aten::bmm" for shape in e.input_shapes]
    assert shapes
    assert not [shape for shape in shapes if shape[1:] in weights]


def test_the_two_views_are_one_where_they_are_the_same() -> None:
    vision = vision_of(tiny_clip("vit"))
    assert len(vision.preprocess(noise(64, 64))) == 1
    assert len(vision.preprocess(noise(64, 96))) == 2
    assert len(vision_of(tiny_clip("vit", "squash")).preprocess(noise(64, 66))) == 1
    assert len(vision_of(tiny_clip("vit"), pooled="regions").preprocess(noise(64, 96))) == 1


@pytest.mark.parametrize("family", ["vit", "coca", "resnet", "siglip", "eva"])
def test_text_embeddings_are_open_clips_own(family: str) -> None:
    loaded = tiny_clip(family)
    texts = ["a red dog", "cats", "", "x " * 300]
    with torch.inference_mode():
        expected = loaded.clip.encode_text(loaded.tokenizer(texts), normalize=True)
        text = OpenClipText(loaded.clip, DIM, loaded.tokenizer).eval()
        torch.testing.assert_close(text(texts), expected, atol=1e-5, rtol=1e-5)
        assert text([]).shape == (0, DIM)
    assert not hasattr(text.clip, "visual")


def test_templates_make_an_ensemble() -> None:
    loaded = tiny_clip("vit")
    plain = OpenClipText(loaded.clip, DIM, loaded.tokenizer).eval()
    both = OpenClipText(loaded.clip, DIM, loaded.tokenizer, ("a photo of a {}.", "art of {}")).eval()
    with torch.inference_mode():
        parts = plain(["a photo of a {x}.", "art of {x}", "a photo of a cat.", "art of cat"])
        expected = torch.nn.functional.normalize(parts.view(2, 2, DIM).mean(1), dim=-1)
        torch.testing.assert_close(both(["{x}", "cat"]), expected, atol=1e-5, rtol=1e-5)
    assert both.signature != plain.signature
    with pytest.raises(ValueError, match="exactly one"):
        OpenClipText(loaded.clip, DIM, loaded.tokenizer, ("a photo",))


# --- a ViT whose weights plant a pattern --------------------------------------------------------------


class RedText(TextEncoder):
    """The one text that the planted model knows: where its tokens for red lie after ln_post."""

    dim = 4

    def forward(self, texts: Any) -> Tensor:
        red = torch.nn.functional.layer_norm(torch.tensor([1.0, -1.0, -1.0, 0.0]), (4,))
        return torch.nn.functional.normalize(red, dim=0).expand(len(texts), 4)


def planted_model(method: str, image_size: int | tuple[int, int], **config: Any) -> XAttnModel:
    """Tokens are the mean colour of their patch; the last block's q, k and v are its input.

    The class token and positions are zero, so only what a patch shows tells it from others.
    """
    vision_config = {
        **VIT,
        "width": 4,
        "head_width": 4,
        "layers": 2,
        "no_ln_pre": True,
        "image_size": image_size,
    }
    model_config = {
        "embed_dim": 4,
        "vision_cfg": vision_config,
        "text_cfg": {"width": 8, "heads": 1, "layers": 1},
    }
    clip: Any = build_clip(model_config)
    visual = clip.visual
    with torch.no_grad():
        for parameter in visual.parameters():
            parameter.zero_()
        for channel in range(3):
            visual.conv1.weight[channel, channel] = 1 / 64
        for block in visual.transformer.resblocks:
            block.ln_1.weight.fill_(1)
            block.ln_2.weight.fill_(1)
        last = visual.transformer.resblocks[-1].attn
        last.in_proj_weight.copy_(torch.cat([2 * torch.eye(4), 2 * torch.eye(4), torch.eye(4)]))
        last.out_proj.weight.copy_(torch.eye(4))
        visual.ln_post.weight.fill_(1)
        visual.proj.copy_(torch.eye(4))
    preprocess = {"size": image_size, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    vision = OpenClipVision(visual, model_config, preprocess, RegionConfig(method=method, **config))
    attention = CrossAttention.identity(4, temperature=50.0)
    return XAttnModel(vision, RedText(), attention, Calibration())


def blue_with_a_red_cell(grid: tuple[int, int], red: tuple[int, int]) -> Image.Image:
    pixels = np.zeros((*grid, 3), np.uint8)
    pixels[..., 2] = 255
    pixels[red] = (255, 0, 0)
    return Image.fromarray(pixels.repeat(30, 0).repeat(30, 1))


@pytest.mark.parametrize("method", DENSE_METHODS)
@pytest.mark.parametrize(("grid", "red"), [((5, 5), (3, 1)), ((5, 7), (1, 4)), ((7, 5), (6, 2))])
def test_a_planted_pattern_peaks_in_its_cell(
    method: str, grid: tuple[int, int], red: tuple[int, int]
) -> None:
    model = planted_model(method, 40, num_regions=grid[0] * grid[1])
    (grounding,) = model.ground(blue_with_a_red_cell(grid, red), ["red"])
    assert grounding.weights.shape == grid
    assert np.unravel_index(grounding.weights.argmax(), grid) == red
    assert grounding.weights[red] > 10 * np.median(grounding.weights)
    total = grounding.contributions.sum() + sum(grounding.rest.values())
    assert total == pytest.approx(grounding.score, abs=1e-4)
    x1, y1, x2, y2 = grounding.boxes[0].box
    assert x1 <= (red[1] + 0.5) * 30 <= x2
    assert y1 <= (red[0] + 0.5) * 30 <= y2


def test_a_model_trained_at_a_size_that_is_not_square() -> None:
    model = planted_model("clearclip", (40, 56))
    (grounding,) = model.ground(blue_with_a_red_cell((5, 7), (1, 4)), ["red"])
    assert np.unravel_index(grounding.weights.argmax(), grounding.weights.shape) == (1, 4)


@pytest.mark.parametrize("method", DENSE_METHODS)
def test_windows_find_the_planted_cell_too(method: str) -> None:
    model = planted_model(method, 40, num_regions=9 * 13, windows=True)
    (grounding,) = model.ground(blue_with_a_red_cell((9, 13), (7, 11)), ["red"])
    assert grounding.weights.shape == (9, 13)
    assert np.unravel_index(grounding.weights.argmax(), (9, 13)) == (7, 11)


def test_windows_average_what_each_of_them_sees() -> None:
    """Cells in one window only are that window's; the first column of a 5×7 grid is in the first."""
    loaded = tiny_clip("vit")
    windowed = vision_of(loaded, windows=True, num_regions=35)
    picture = noise(50, 70)
    with torch.inference_mode():
        grid = windowed([windowed.preprocess(picture)])
        view = windowed.normalised([windowed.preprocess(picture)[-1]])
        tower = tower_of(loaded.clip.visual)
        left, _ = tower.encode(view[:, :, :, :40], "clearclip")
        right, _ = tower.encode(view[:, :, :, 16:], "clearclip")
    assert grid.sizes == ((5, 7),)
    unit = torch.nn.functional.normalize
    left, right = unit(left, dim=-1).view(5, 5, DIM), unit(right, dim=-1).view(5, 5, DIM)
    found = grid.regions.view(5, 7, DIM)
    torch.testing.assert_close(found[:, :2], left[:, :2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:, 5:], right[:, 3:], atol=1e-5, rtol=1e-5)
    expected = unit(left[:, 2:] + right[:, :3], dim=-1)
    torch.testing.assert_close(found[:, 2:5], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("length", "window", "expected"), [(5, 5, [0]), (7, 5, [0, 2]), (10, 5, [0, 2, 4, 5])]
)
def test_windows_cover_a_side(length: int, window: int, expected: list[int]) -> None:
    assert starts(length, window) == expected


@pytest.mark.parametrize(
    ("size", "num_regions", "expected"),
    [
        ((480, 640), 196, (12, 16)),
        ((640, 480), 196, (16, 12)),
        ((99, 99), 49, (7, 7)),
        ((1, 999), 1, (1, 3)),
        ((10, 9999), 64, (4, 16)),
        ((500, 700), 35, (5, 7)),
    ],
)
def test_grids_follow_the_aspect_ratio(size: Any, num_regions: int, expected: Any) -> None:
    assert grid_for(size, num_regions) == expected


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown method 'clip'; valid are auto, clearclip"):
        RegionConfig(method="clip")
    with pytest.raises(ValueError, match="at least 1"):
        RegionConfig(num_regions=0)
    with pytest.raises(CheckpointError, match="it can do plain"):
        vision_of(tiny_clip("convnext"), method="naclip")
    with pytest.raises(CheckpointError, match="towers of type Linear"):
        tower_of(torch.nn.Linear(1, 1))


def test_pictures_of_any_mix_of_sizes_keep_their_order() -> None:
    model = assemble(tiny_clip("vit"), RegionConfig(), name="tiny")
    together = model.encode_images(PICTURES)
    for i, picture in enumerate(PICTURES):
        alone = model.encode_images([picture])
        assert together.sizes[i] == alone.sizes[0]
        torch.testing.assert_close(together[i].regions, alone.regions, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together[i].pooled, alone.pooled, atol=1e-5, rtol=1e-5)


def test_fingerprint_tells_apart_how_regions_are_made() -> None:
    prints = [
        assemble(tiny_clip("vit"), RegionConfig(**config), templates, name="tiny").fingerprint
        for config, templates in [
            ({}, ("{}",)),
            ({"method": "naclip"}, ("{}",)),
            ({"num_regions": 50}, ("{}",)),
            ({}, ("a {}",)),
        ]
    ]
    assert len(set(prints)) == 4
    assert assemble(tiny_clip("vit"), RegionConfig(), name="other").fingerprint == prints[0]


def test_an_untrained_model_scores_by_its_own_scale() -> None:
    loaded = tiny_clip("siglip")
    scale = loaded.clip.logit_scale.exp().item()
    model = assemble(loaded, RegionConfig(), name="tiny")
    images, texts = model.encode_images(PICTURES[:2]), model.encode_texts(["a", "b"])
    whole = images.pooled @ texts.T
    weights = (50 * (images.regions @ texts.T)).exp() * images.mask[..., None]
    weights = weights / (1 + weights.sum(1, keepdim=True))  # null stands at cosine 0
    read = torch.einsum("brn,brd->bnd", weights, images.regions)
    attended = torch.cosine_similarity(read, texts, dim=-1)
    expected = scale * (0.25 * attended + 0.75 * whole) + model.calibration.logit_bias
    torch.testing.assert_close(model.score(images, texts), expected, atol=1e-3, rtol=1e-4)
