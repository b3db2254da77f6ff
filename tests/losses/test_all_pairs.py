"""The tiled loss against plain autograd, several processes against one, chunked encoders against whole."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional as F

from xattn.attention import CrossAttention
from xattn.losses import Chunked, Kind, Pairs, all_pairs_loss, exchange, sigmoid_pairs

KINDS: list[Kind] = ["sigmoid", "info_nce"]
DIM, NUM_HEADS = 6, 2


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make(num_pictures: int, num_regions: int, per_picture: int, seed: int = 0) -> dict[str, Any]:
    """Random pictures with `per_picture` captions each; a nontrivial attention, scales and biases."""
    torch.manual_seed(seed)
    attention = CrossAttention(DIM, NUM_HEADS)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    num_texts = num_pictures * per_picture
    owners = torch.arange(num_texts) % num_pictures
    return {
        "attention": attention,
        "regions": torch.randn(num_pictures, num_regions, DIM, requires_grad=True),
        "pooled": F.normalize(torch.randn(num_pictures, DIM), dim=-1).requires_grad_(),
        "texts": F.normalize(torch.randn(num_texts, DIM), dim=-1).requires_grad_(),
        "positives": owners[None] == torch.arange(num_pictures)[:, None],
        "scales": torch.tensor([7.0, 11.0], requires_grad=True),
        "biases": torch.tensor([-1.5, -2.5], requires_grad=True),
    }


def leaves(given: dict[str, Any]) -> dict[str, Tensor]:
    named = {name: given[name] for name in ("regions", "pooled", "texts", "scales", "biases")}
    return named | dict(given["attention"].named_parameters())


def gradients(
    given: dict[str, Any],
    kind: Kind,
    tile: tuple[int, int] | None,
    mask: Tensor | None = None,
    valid: Tensor | None = None,
    weights: tuple[float, float] = (1.0, 1.0),
) -> tuple[Tensor, dict[str, Tensor]]:
    for leaf in leaves(given).values():
        leaf.grad = None
    pairs = Pairs(given["regions"], given["pooled"], given["texts"], given["positives"], mask, valid)
    loss = all_pairs_loss(
        given["attention"], pairs, given["scales"], given["biases"], kind=kind, tile=tile, weights=weights
    )
    (3 * loss.total).backward()  # a factor, so that the outer gradient counts
    found = {name: leaf.grad for name, leaf in leaves(given).items()}
    values = torch.stack([loss.total.detach(), loss.pooled, loss.attended])
    return values, {name: g.clone() for name, g in found.items() if g is not None}


def assert_same(a: tuple[Tensor, dict[str, Tensor]], b: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(a[0], b[0], atol=1e-10, rtol=0)
    for name in a[1].keys() | b[1].keys():
        if name == "biases":  # of no effect on InfoNCE: absent from one, zero in the other
            zero = torch.zeros(2)
            torch.testing.assert_close(a[1].get(name, zero), b[1].get(name, zero), atol=1e-10, rtol=0)
        else:
            torch.testing.assert_close(a[1][name], b[1][name], atol=1e-10, rtol=0, msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tile", [(1, 1), (2, 3), (3, 5), (5, 4), (64, 64)])
@pytest.mark.parametrize("per_picture", [1, 3])
def test_tiled_equals_untiled(kind: Kind, tile: tuple[int, int], per_picture: int) -> None:
    given = make(5, 7, per_picture)
    whole = gradients(given, kind, None)
    assert_same(gradients(given, kind, tile), whole)
    assert all(g.abs().max() > 1e-6 for name, g in whole[1].items() if name != "biases")


@pytest.mark.parametrize("kind", KINDS)
def test_tiled_equals_untiled_with_masks_and_weights(kind: Kind) -> None:
    given = make(5, 7, 2)
    mask = torch.arange(7) < torch.tensor([7, 3, 1, 5, 7])[:, None]
    valid = torch.rand(5, 10) < 0.7
    valid |= given["positives"]
    whole = gradients(given, kind, None, mask, valid, (0.5, 2.0))
    assert_same(gradients(given, kind, (2, 3), mask, valid, (0.5, 2.0)), whole)
    # Padding and pairs that do not count: whatever they hold, nothing changes.
    with torch.no_grad():
        given["regions"][~mask] = 100.0
    assert_same(gradients(given, kind, (3, 4), mask, valid, (0.5, 2.0)), whole)
    assert not torch.allclose(gradients(given, kind, (3, 4))[0], whole[0])


@pytest.mark.parametrize("kind", KINDS)
def test_shared_captions_and_pictures_without_any(kind: Kind) -> None:
    given = make(4, 5, 2)
    given["positives"][3] = False  # a picture without a caption; its captions are wrong for everyone
    given["positives"][1, 0] = True  # one caption of two pictures
    assert_same(gradients(given, kind, (3, 3)), gradients(given, kind, None))


def test_sigmoid_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    positives = torch.tensor([[True, False, True], [False, True, False]])
    signed = torch.tensor([2.0, 1.0, 0.5, 0.0, 3.0, 2.0])
    expected = -(1 / (1 + (-signed).exp())).log().sum() / 3
    assert sigmoid_pairs(logits, positives).item() == pytest.approx(expected.item())
    valid = torch.tensor([[True, False, True], [True, True, True]])
    expected = -(1 / (1 + (-signed[[0, 2, 3, 4, 5]]).exp())).log().sum() / 3
    assert sigmoid_pairs(logits, positives, valid).item() == pytest.approx(expected.item())


def test_frozen_parts_get_no_gradient_and_no_graph_is_needed() -> None:
    given = make(3, 5, 1)
    given["attention"].key.weight.requires_grad_(False)
    given["regions"].requires_grad_(False)
    _, found = gradients(given, "sigmoid", (2, 2))
    assert "key.weight" not in found
    assert "regions" not in found
    assert "value.weight" in found
    with torch.no_grad():
        pairs = Pairs(given["regions"], given["pooled"], given["texts"], given["positives"])
        args = (given["attention"], pairs, given["scales"], given["biases"])
        tiled = all_pairs_loss(*args, tile=(2, 2)).total
        torch.testing.assert_close(tiled, all_pairs_loss(*args, tile=None).total)
        assert not tiled.requires_grad


def test_memory_does_not_grow_with_the_batch() -> None:
    """Counted, not timed: the largest tensor that a walk makes beyond what it was given."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                self.numel = max(self.numel, out.numel())
            return out

    sizes = []
    for count in (8, 32):
        given = make(count, 5, 1)
        given["regions"].requires_grad_(False)
        with Largest() as largest:
            gradients(given, "info_nce", (2, 2))
        sizes.append(largest.numel)
    # Only what belongs to one axis may grow: texts and regions, not pairs × regions.
    assert sizes[1] <= 4 * max(sizes[0], 8 * 5 * DIM)
    assert sizes[1] < 32 * 32 * NUM_HEADS * 5 / 4


def test_tiles_must_hold_something() -> None:
    given = make(2, 3, 1)
    with pytest.raises(ValueError, match="tile"):
        gradients(given, "sigmoid", (0, 4))


# Several processes


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _one_of(rank: int, world: int, port: int, kind: Kind, out: str) -> None:
    """Takes every world-th picture and its captions; saves loss and gradients."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    given = make(9, 5, 2)
    mine = torch.arange(9) % world == rank  # unequal parts: 5 and 4, or 3, 2, 2, 2
    owners = torch.arange(18) % 9
    regions, pooled = (given[name].detach()[mine].requires_grad_() for name in ("regions", "pooled"))
    texts = given["texts"].detach()[mine[owners]].requires_grad_()
    everyone = exchange(owners[mine[owners]])
    positives = torch.arange(9)[mine][:, None] == everyone[None]
    pairs = Pairs(regions, pooled, exchange(texts), positives)
    loss = all_pairs_loss(
        given["attention"], pairs, given["scales"], given["biases"], kind=kind, tile=(2, 3)
    )
    loss.total.backward()
    shared = {name: p.grad for name, p in given["attention"].named_parameters()}
    shared |= {"scales": given["scales"].grad, "biases": given["biases"].grad, "loss": loss.total.detach()}
    for value in shared.values():
        dist.all_reduce(value)
    own = {"regions": regions.grad, "pooled": pooled.grad, "texts": texts.grad}
    torch.save({"shared": shared, "own": own, "mine": mine}, Path(out) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_equal_one(kind: Kind, world: int, tmp_path: Path) -> None:
    given = make(9, 5, 2)
    values, whole = gradients(given, kind, None)
    arguments = (world, _free_port(), kind, str(tmp_path))
    mp.start_processes(_one_of, arguments, nprocs=world, start_method="forkserver")
    owners = torch.arange(18) % 9
    for rank in range(world):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["shared"].pop("loss"), values[0], atol=1e-6, rtol=0)
        for name, gradient in found["shared"].items():
            if gradient is not None:
                torch.testing.assert_close(3 * gradient, whole.get(name, torch.zeros(2)), atol=1e-6, rtol=0)
        mine = found["mine"]
        for name, rows in (("regions", mine), ("pooled", mine), ("texts", mine[owners])):
            torch.testing.assert_close(3 * found["own"][name], whole[name][rows], atol=1e-6, rtol=0)


# Chunked encoders


@pytest.mark.parametrize("kind", KINDS)
def test_chunked_encoders_equal_whole_ones(kind: Kind) -> None:
    given = make(6, 5, 2)
    torch.manual_seed(1)
    vision, text = nn.Linear(4, DIM), nn.Linear(3, DIM)
    pixels, words = torch.randn(6, 5, 4), torch.randn(12, 3)

    def encode_images(x: Tensor) -> tuple[Tensor, ...]:
        regions = vision(x)
        return regions, F.normalize(regions.mean(1), dim=-1)

    def encode_texts(x: Tensor) -> tuple[Tensor, ...]:
        return (F.normalize(text(x), dim=-1),)

    def take_back(regions: Tensor, pooled: Tensor, texts: Tensor) -> Tensor:
        pairs = Pairs(regions, pooled, texts, given["positives"])
        loss = all_pairs_loss(given["attention"], pairs, given["scales"], given["biases"], kind=kind)
        loss.total.backward()
        return loss.total.detach()

    weights = [vision.weight, vision.bias, text.weight, text.bias]
    whole = take_back(*encode_images(pixels), *encode_texts(words))
    expected = [w.grad.clone() for w in weights if w.grad is not None]
    for weight in weights:
        weight.grad = None
    images, texts = Chunked(encode_images, pixels.split(4)), Chunked(encode_texts, words.split(5))
    # Not bit for bit: a product of fewer rows may be summed in another order.
    chunked = take_back(*images.outputs, *texts.outputs)
    torch.testing.assert_close(chunked, whole, atol=0, rtol=1e-12)
    images.backward()
    texts.backward()
    assert len(expected) == 4
    for weight, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, atol=1e-12, rtol=0)


def test_chunks_drop_the_same_places_twice() -> None:
    """The second encoding repeats the first: with dropout, too; and leaves the generator as it was."""
    net = nn.Linear(3, 4)
    encode: Callable[[Tensor], tuple[Tensor, ...]] = lambda x: (F.dropout(net(x), 0.5),)  # noqa: E731
    torch.manual_seed(5)
    inputs = torch.randn(7, 3)
    chunked = Chunked(encode, inputs.split(3))
    chunked.outputs[0].square().sum().backward()
    after = torch.get_rng_state()
    chunked.backward()
    assert torch.equal(after, torch.get_rng_state())
    kept = (chunked.outputs[0].detach() != 0).to(inputs.dtype)
    expected = (2 * chunked.outputs[0].detach() * 2 * kept).T @ inputs
    torch.testing.assert_close(net.weight.grad, expected)
