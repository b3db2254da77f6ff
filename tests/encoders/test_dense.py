"""The dense methods against slow, loop-written formulas, and the towers they are put into."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_clip import FAMILIES, TRANSFORMERS, tiny_clip
from xattn.encoders.openclip.dense import (
    ATTENTION_ONLY,
    DENSE_METHODS,
    TokenGrid,
    neighbourhood,
    read_values,
    resample_positions,
)
from xattn.encoders.openclip.model import tower_of
from xattn.encoders.openclip.timm_towers import TimmBlock, TimmVitTower
from xattn.encoders.openclip.vision_towers import VitBlock

GRID = TokenGrid((2, 3), num_prefix=1)


def softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    exponents = [math.exp(logit - top) for logit in logits]
    return [exponent / sum(exponents) for exponent in exponents]


def slow_read(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, method: str, grid: TokenGrid, scale: float
) -> np.ndarray:
    """One token at a time, from the papers' formulas. q, k, v: [B K T d]."""
    batch, heads, tokens, _ = q.shape
    read = np.zeros_like(v)

    def place(token: int) -> tuple[int, int]:
        return divmod(token - grid.num_prefix, grid.size[1])

    def gaussian(i: int, j: int) -> float:
        if i < grid.num_prefix or j < grid.num_prefix:
            return 0.0
        (yi, xi), (yj, xj) = place(i), place(j)
        return math.exp(-((yi - yj) ** 2 + (xi - xj) ** 2) / (2 * 5.0**2))

    for b in range(batch):
        for h in range(heads):
            for i in range(tokens):

                def similar(left: np.ndarray, right: np.ndarray, b=b, h=h, i=i) -> list[float]:
                    return [float(left[b, h, i] @ right[b, h, j]) * scale for j in range(tokens)]

                if method == "maskclip":
                    weights = [float(i == j) for j in range(tokens)]
                elif method == "clearclip":
                    weights = softmax(similar(q, q))
                elif method == "sclip":
                    pairs = zip(softmax(similar(q, q)), softmax(similar(k, k)), strict=True)
                    weights = [first + second for first, second in pairs]
                elif method == "naclip":
                    weights = softmax([s + gaussian(i, j) for j, s in enumerate(similar(k, k))])
                else:
                    weights = softmax(similar(q, k))
                for j in range(tokens):
                    read[b, h, i] += weights[j] * v[b, h, j]
    return read


@pytest.mark.parametrize("method", DENSE_METHODS)
@pytest.mark.parametrize("grid", [GRID, TokenGrid((3, 2), 0), TokenGrid((2, 2), 3)])
def test_methods_match_loops_over_their_formulas(method: Any, grid: TokenGrid) -> None:
    torch.manual_seed(0)
    tokens = grid.num_prefix + grid.size[0] * grid.size[1]
    q, k, v = torch.randn(3, 2, 2, tokens, 4)
    expected = slow_read(q.numpy(), k.numpy(), v.numpy(), method, grid, scale=0.5)
    found = read_values(q, k, v, method, grid, 0.5)
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", DENSE_METHODS)
def test_last_block_of_a_vit_matches_loops(method: Any) -> None:
    """The whole changed block, residual and feed-forward part included or not, from its raw weights."""
    from xattn.encoders.openclip.dense import last_block_tokens

    visual: Any = tiny_clip("vit").clip.visual
    block = visual.transformer.resblocks[-1]
    x = torch.randn(2, 7, 32)
    with torch.no_grad():
        found = last_block_tokens(VitBlock(block), x, method, GRID)
        normed = block.ln_1(x).numpy()
        weight, bias = block.attn.in_proj_weight.numpy(), block.attn.in_proj_bias.numpy()
        heads, width = 4, 8
        qkv = np.zeros((3, 2, heads, 7, width), np.float32)
        for part in range(3):
            for head in range(heads):
                rows = slice(part * 32 + head * width, part * 32 + (head + 1) * width)
                for b in range(2):
                    for token in range(7):
                        qkv[part, b, head, token] = weight[rows] @ normed[b, token] + bias[rows]
        read = slow_read(*qkv, method, GRID, scale=width**-0.5)
        joined = torch.from_numpy(np.concatenate([read[:, head] for head in range(heads)], -1))
        branch = block.attn.out_proj(joined)
        whole = x + branch + block.mlp(block.ln_2(x + branch))
    torch.testing.assert_close(found, branch if method in ATTENTION_ONLY else whole, atol=1e-5, rtol=1e-5)


def test_neighbourhood_is_one_at_home_and_falls_with_distance() -> None:
    omega = neighbourhood(TokenGrid((5, 7), 2), sigma=2.0)
    assert omega.shape == (37, 37)
    assert omega[:2].abs().max() == omega[:, :2].abs().max() == 0
    home = 2 + 1 * 7 + 4
    assert omega[home, home] == 1
    assert omega[home, 2 + 3 * 7 + 5].item() == pytest.approx(math.exp(-5 / 8))


def test_positions_of_another_grid_lie_where_they_lay() -> None:
    """A peak in one corner stays in that corner; the class token's position is not touched."""
    positions = torch.zeros(1 + 9, 2)
    positions[0] = 7.0
    positions[1 + 2, 1] = 1.0  # top right of 3×3
    resampled = resample_positions(positions, TokenGrid((3, 3), 1), (4, 7))
    assert resampled.shape == (1 + 28, 2)
    assert resampled[0].tolist() == [7.0, 7.0]
    assert resampled[1:, 1].argmax().item() == 6
    assert resample_positions(positions, TokenGrid((3, 3), 1), (3, 3)) is positions


def made_up_from_parts(tower: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The last block's output twice: as trained, and from q, k, v by plain attention."""
    visual: Any = tower.visual
    if isinstance(tower, TimmVitTower):
        x, rope = tower.embedded(pixels, tower.positions((5, 7)))
        for block in visual.trunk.blocks[:-1]:
            x = block(x) if rope is None else block(x, rope=rope)
        last: Any = TimmBlock(visual.trunk.blocks[-1], rope)
    else:
        x = tower.embedded(pixels, tower.positions((5, 7)))
        for block in visual.transformer.resblocks[:-1]:
            x = block(x)
        last = VitBlock(visual.transformer.resblocks[-1])
    branch = last.merge(read_values(*last.project(x), "plain", GRID, last.scale))
    return last.plain(x), x + branch + last.feed_forward(x + branch)


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_parts_of_the_last_block_make_up_the_block(family: str) -> None:
    """q, k, v, merge and feed-forward, put together by plain attention, are the block as trained."""
    tower = tower_of(tiny_clip(family).clip.visual)
    with torch.no_grad():
        trained, parts = made_up_from_parts(tower, torch.randn(2, 3, 5 * tower.cell[0], 7 * tower.cell[1]))
    torch.testing.assert_close(parts, trained, atol=1e-5, rtol=1e-5)


def own_tokens(family: str, visual: Any, pixels: torch.Tensor) -> torch.Tensor:
    """open_clip's own last tokens, after its norm and projection, by its own code; one at a time for
    heads that are no plain projection."""
    if family in ("vit", "vit-average", "vit-custom", "vit-scaled"):
        output = visual.forward_intermediates(pixels, indices=1, output_fmt="NLC")
        return visual.ln_post(output["image_intermediates"][0]) @ visual.proj
    trunk = visual.trunk
    tokens = trunk.forward_features(pixels)
    if family in ("convnext", "fastvit"):
        places = tokens.flatten(2).unbind(2)
        heads = [visual.head(trunk.forward_head(place[:, :, None, None])) for place in places]
        return torch.stack(heads, 1)
    patches = tokens[:, trunk.num_prefix_tokens :]
    if family in ("token", "eva", "eva-post", "eva-average"):
        return trunk.head(trunk.fc_norm(patches))
    if family == "vitamin":
        return visual.head(trunk.fc_norm(patches))
    return torch.stack(
        [
            visual.head(trunk.head(trunk.fc_norm(trunk.attn_pool(patches[:, i : i + 1]))))
            for i in range(patches.shape[1])
        ],
        1,
    )


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("coca", "resnet")])
def test_plain_regions_are_the_models_own_tokens(family: str) -> None:
    """At the size it was trained at."""
    visual: Any = tiny_clip(family).clip.visual
    side = FAMILIES[family]["image_size"]
    pixels = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = own_tokens(family, visual, pixels)
        tower = tower_of(visual)
        regions, pooled = tower.encode(pixels, "plain")
        own_pooled = visual(pixels)
    torch.testing.assert_close(regions, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled, own_pooled, atol=1e-5, rtol=1e-5)


def test_plain_regions_of_a_resnet_are_its_pool_at_every_place() -> None:
    """The pool's query is the mean place; here each place is made the query in turn."""
    from torch.nn import functional as F

    visual: Any = tiny_clip("resnet").clip.visual
    pixels = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        regions, pooled = tower_of(visual).encode(pixels, "plain")
        features = visual.forward_intermediates(pixels, indices=1)["image_intermediates"][0]
        pool = visual.attnpool
        x = features.flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(0, keepdim=True), x]) + pool.positional_embedding[:, None]
        bias = torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias])
        expected, _ = F.multi_head_attention_forward(
            x,
            x,
            x,
            x.shape[-1],
            pool.num_heads,
            None,
            bias,
            None,
            None,
            False,
            0.0,
            pool.c_proj.weight,
            pool.c_proj.bias,
            training=False,
            need_weights=False,
            use_separate_proj_weight=True,
            q_proj_weight=pool.q_proj.weight,
            k_proj_weight=pool.k_proj.weight,
            v_proj_weight=pool.v_proj.weight,
        )
    torch.testing.assert_close(regions, expected[1:].transpose(0, 1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled, visual(pixels).detach(), atol=1e-5, rtol=1e-5)


def test_regions_of_coca_are_what_its_pooler_reads_from_one_token() -> None:
    visual: Any = tiny_clip("coca").clip.visual
    tower: Any = tower_of(visual)
    tokens = torch.randn(2, 3, 32)
    with torch.no_grad():
        found = tower.project(tokens)
        alone = [
            visual.ln_post(visual.attn_pool(tokens[:, i : i + 1]))[:, 0] @ visual.proj for i in range(3)
        ]
    torch.testing.assert_close(found, torch.stack(alone, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["siglip", "token", "eva", "pe"])
def test_other_grids_are_resampled_as_timm_does(family: str) -> None:
    """Against the same model made with timm's own switch for pictures of any size."""
    import timm

    visual: Any = tiny_clip(family).clip.visual
    config = FAMILIES[family]
    flexible = timm.create_model(
        config["timm_model_name"],
        global_pool=config["timm_pool"],
        num_classes=visual.trunk.num_classes,
        dynamic_img_size=True,
    ).eval()
    flexible.load_state_dict(visual.trunk.state_dict())
    pixels = torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        expected = flexible.forward_features(pixels)
        tower: Any = tower_of(visual)
        regions, _ = tower.encode(pixels, "plain")
        projected = tower.project(expected[:, visual.trunk.num_prefix_tokens :])
    torch.testing.assert_close(regions, projected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_change_in_one_cell_shows_most_in_its_region(family: str) -> None:
    """On a grid that is not square, read without mixing: with random weights, attention is diffuse."""
    tower = tower_of(tiny_clip(family).clip.visual)
    rows, columns, hot = (3, 5, (1, 3)) if tower.cell == (32, 32) else (5, 7, (1, 4))
    high, wide = tower.cell
    pixels = torch.randn(1, 3, rows * high, columns * wide)
    changed = pixels.clone()
    changed[:, :, hot[0] * high : (hot[0] + 1) * high, hot[1] * wide : (hot[1] + 1) * wide] *= -3
    method = "maskclip" if "maskclip" in tower.methods else "plain"
    with torch.no_grad():
        before, after = (tower.encode(p, method)[0] for p in (pixels, changed))
    moved = (after - before).norm(dim=-1).view(rows, columns)
    row, column = divmod(int(moved.argmax()), columns)
    # ViTamin's strided convolutions have a cell's upper left corner as their middle, and see four cells.
    reach = 1 if family == "vitamin" else 0
    assert 0 <= row - hot[0] <= reach
    assert 0 <= column - hot[1] <= reach
