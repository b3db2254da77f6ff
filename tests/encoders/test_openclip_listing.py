"""The list of open_clip models, and the command that prints it."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from xattn import cli
from xattn.encoders.openclip.listing import count_parameters, licence_of, list_models
from xattn.encoders.openclip.model import tower_of
from xattn.encoders.openclip.names import build_clip


def test_every_set_of_weights_is_listed_once() -> None:
    names = [model.name for model in list_models()]
    known = [f"openclip:{arch}/{tag}" for arch, tag in open_clip.list_pretrained()]
    assert names == known
    assert len(list_models("siglip2")) == sum("siglip2" in name.lower() for name in known) > 5
    assert list_models("no such model") == []


@pytest.mark.parametrize("arch", ["ViT-B-16", "RN50", "ViT-B-16-SigLIP", "coca_ViT-B-32"])
def test_sizes_are_as_counted(arch: str) -> None:
    listed = {model.name.split("/")[0]: model.millions for model in list_models(f"openclip:{arch}/")}
    assert listed[f"openclip:{arch}"] == count_parameters(arch)


@pytest.mark.parametrize(
    ("name", "size", "grid", "maps"),
    [
        ("ViT-B-16/laion2b_s34b_b88k", (224, 224), (14, 14), "advised"),
        ("ViT-B-32/openai", (224, 224), (7, 7), "coarse"),
        ("ViT-L-14/openai", (224, 224), (16, 16), "weaker"),
        ("RN50x64/openai", (448, 448), (14, 14), "weaker"),
        ("ViT-B-16-SigLIP-384/webli", (384, 384), (24, 24), "advised"),
        ("ViT-SO400M-14-SigLIP/webli", (224, 224), (16, 16), "weaker"),
        ("PE-Core-bigG-14-448/meta", (448, 448), (32, 32), "weaker"),
        ("MobileCLIP-B/datacompdr", (224, 224), (14, 14), "advised"),
        ("convnext_base_w/laion2b_s13b_b82k", (256, 256), (8, 8), "coarse"),
    ],
)
def test_grids_and_advice(name: str, size: object, grid: object, maps: str) -> None:
    (model,) = [model for model in list_models(name) if model.name == f"openclip:{name}"]
    assert (model.size, model.grid, model.maps) == (size, grid, maps)


def test_grids_are_those_of_the_towers() -> None:
    """What is listed from configs is what a tower makes of a picture of its size."""
    for arch in ("ViT-B-16", "RN50", "ViT-B-16-SigLIP", "PE-Core-T-16-384", "ViTamin-S", "convnext_base"):
        (model, *_) = list_models(f"openclip:{arch}/")
        tower = tower_of(visual_without_storage(arch))
        assert tower.grid(tower.native) == model.grid, arch


def test_advised_models_are_base_sized_with_dense_features() -> None:
    advised = {
        model.name.split(":")[1].split("/")[0]: model for model in list_models() if model.maps == "advised"
    }
    assert {"ViT-B-16", "ViT-B-16-SigLIP2-512", "EVA02-B-16", "PE-Core-B-16"} <= set(advised)
    for arch, model in advised.items():
        visual = visual_without_storage(arch)
        tower = tower_of(visual)
        assert tower.methods[0] == "clearclip", arch
        assert tower.grid(tower.native) == model.grid, arch
        assert sum(parameter.numel() for parameter in visual.parameters()) < 150e6, arch


def visual_without_storage(arch: str) -> nn.Module:
    config = open_clip.get_model_config(arch)
    config["text_cfg"] = {"width": 64, "heads": 1, "layers": 1}  # another's would need its files
    with torch.device("meta"):
        visual: nn.Module = build_clip(config).visual
    return visual


def test_licences_that_forbid_business_are_named() -> None:
    assert licence_of("ViT-B-16", "metaclip_400m").startswith("CC-BY-NC")
    assert licence_of("MobileCLIP-B", "datacompdr").startswith("Apple")
    assert licence_of("ViT-H-14-worldwide", "metaclip2_worldwide").startswith("CC-BY-NC")
    assert licence_of("nllb-clip-base-siglip", "mrl").startswith("CC-BY-NC")
    for arch, tag in [
        ("ViT-B-16", "commonpool_l_s1b_b8k"),
        ("ViT-H-14-CLIPA-336", "laion2b"),
        ("ViTamin-S", "datacomp1b"),
    ]:
        assert licence_of(arch, tag) == "see its model card"  # not seen, so nothing is claimed
    assert licence_of("ViT-B-16", "a_new_one") == "see its model card"


def test_the_command() -> None:
    result = CliRunner().invoke(cli.app, ["models", "ViT-B-16/", "--advised"])
    assert result.exit_code == 0, result.output
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert ["openclip:ViT-B-16/openai", "150 M", "224×224", "14×14", "advised", "MIT"] in lines
    assert all(line[4] == "advised" for line in lines)
    as_json = json.loads(CliRunner().invoke(cli.app, ["models", "RN50/", "--json"]).stdout)
    assert as_json["models"][0] == {
        "name": "openclip:RN50/openai",
        "parameters": 102_000_000,
        "height": 224,
        "width": 224,
        "rows": 7,
        "columns": 7,
        "maps": "coarse",
        "licence": "MIT",
    }
