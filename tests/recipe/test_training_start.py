"""Where the default recipe's training starts and ends: aligned spaces, and the mean of the weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from training.alignment import align
from training.fit import fit
from training.recipes import default
from training.run import untrained
from xattn.encoders.hybrid.fold_batch_norm import fold_batch_norms
from xattn.encoders.hybrid.fusion import TowerFeatures
from xattn.training.default_towers import towers_of
from xattn.training.gather import text_table
from xattn.training.pictures import Dataset, Picture

RECIPE = replace(default(smoke=True), dim=48, batch_size=3, epochs=2)
TEXTS = ["red square", "blue square", "green circle", "dog", "a cat on a mat"]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    pictures = []
    for row, text in enumerate(TEXTS):
        path = tmp_path / f"{row}.png"
        Image.new("RGB", (60, 80), (40 * row, 99, 200 - 30 * row)).save(path)
        pictures.append(Picture(row, row, path, (text,), {}, frozenset()))
    return Dataset("train", tuple(pictures), tuple(range(len(pictures))))


def test_at_the_start_a_text_attends_to_the_cell_whose_class_name_it_is(dataset: Dataset) -> None:
    torch.manual_seed(3)
    model = untrained(RECIPE, dataset).eval()
    vision, text = towers_of(model)
    table = text_table(text, TEXTS)
    align(model, table, learned_share=0.0)  # what is random is silent
    rows = torch.randperm(5)
    sentences = text.sentences(table)
    prior = torch.cat([sentences[:1], sentences[rows]])[None]
    features = TowerFeatures(
        cells=torch.rand(1, 5, 1280),
        textures=torch.rand(1, 5, 120),
        tokens=torch.rand(1, 6, 384),
        early=torch.rand(1, 6, 384),
        prior=prior,
        colors=torch.rand(1, 5, 6),
    )
    with torch.no_grad():
        regions, _ = vision.fusion(features, torch.eye(5)[None])
        weights = model.attention.explain(regions, model.encode_texts(TEXTS)).weights[0]
    assert rows[weights.argmax(-1)].tolist() == [0, 1, 2, 3, 4]


def test_the_model_is_the_running_mean_of_the_steps() -> None:
    net = nn.Linear(2, 1)
    steps: list[Tensor] = []
    batches = [(1, torch.tensor([1.0, 2.0])), (1, torch.tensor([-3.0, 1.0])), (2, torch.tensor([0.5, 4.0]))]
    fit(
        net,
        batches,
        len(batches),
        lambda batch: ((net(batch) - 1).square().sum(), {"first": batch[0].item()}),
        replace(RECIPE, averaging=0.75),
        lambda entry: steps.append(net.weight.detach().clone()),
    )
    mean = steps[0]
    for step in steps[1:]:
        mean = 0.75 * mean + 0.25 * step
    assert len(steps) == 3
    torch.testing.assert_close(net.weight.detach(), mean)
    assert not torch.equal(steps[0], steps[1])


def test_folded_batch_norms_change_nothing() -> None:
    torch.manual_seed(0)

    def branch(channels: int) -> nn.Sequential:
        conv = nn.Conv2d(channels, 6, 3, groups=2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(6), nn.ReLU6())

    net = nn.Sequential(branch(4), nn.Sequential(branch(6)))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low in ((module.running_mean, -1), (module.running_var, 0.2), (module.weight, -1)):
                assert value is not None
                nn.init.uniform_(value, low, 2)
    picture = torch.randn(2, 4, 9, 7)
    with torch.no_grad():
        expected = net.eval()(picture)
        folded = fold_batch_norms(net)
        torch.testing.assert_close(folded(picture), expected)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
