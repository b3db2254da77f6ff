"""open_clip models by name: found, refused with the way out, saved and loaded again, searched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

import xattn
from tests.tiny_clip import noise, tiny_clip, tiny_config
from xattn.encoders.openclip.model import OpenClipText, OpenClipVision, RegionConfig
from xattn.encoders.openclip.names import Source, parse_source, templates_of
from xattn.errors import CheckpointError, IndexMismatch, ModelNotFound
from xattn.model import XAttnModel
from xattn.model.checkpoint import load_model, save_model
from xattn.model.zero_shot import assemble

TEXTS = ["a red dog", "cats"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of an architecture "tiny-vit", which open_clip knows from here on."""
    directory = tmp_path_factory.mktemp("clip")
    (directory / "tiny-vit.json").write_text(json.dumps(tiny_config("vit")))
    open_clip.add_model_config(directory / "tiny-vit.json")
    save_file(tiny_clip("vit").clip.state_dict(), directory / "tiny.safetensors")
    return directory / "tiny.safetensors"


def same(first: XAttnModel, second: XAttnModel) -> None:
    """Whether two models give the same features, texts and scores."""
    pictures = [noise(50, 70), noise(40, 40)]
    images, again = first.encode_images(pictures), second.encode_images(pictures)
    torch.testing.assert_close(again.regions, images.regions, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(again.pooled, images.pooled, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(second.score(again, TEXTS), first.score(images, TEXTS))
    assert second.fingerprint == first.fingerprint


def test_weights_from_a_file(weights: Path) -> None:
    model = load_model(f"openclip:tiny-vit@{weights}", device="cpu")
    assert model.name == f"openclip:tiny-vit@{weights}"
    same(assemble(tiny_clip("vit"), RegionConfig(), name="tiny"), model)


def test_options_follow_the_name(weights: Path) -> None:
    options = "method=naclip&regions=40&windows=1&precision=bf16&prompts=photo&temperature=7"
    model = load_model(f"openclip:tiny-vit@{weights}?{options}", device="cpu")
    assert isinstance(model.vision, OpenClipVision)
    assert isinstance(model.text, OpenClipText)
    assert model.vision.config == RegionConfig("naclip", 40, windows=True, precision="bf16")
    assert model.text.templates == ("a photo of {}.",)
    assert model.attention.query.weight[0, 0].item() == pytest.approx(7 * model.dim**0.5)


def test_a_folder_as_open_clip_saves_it(weights: Path, tmp_path: Path) -> None:
    config = {"model_cfg": tiny_config("vit"), "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").write_bytes(weights.read_bytes())
    model = load_model(f"openclip:@{tmp_path}", device="cpu")
    assert isinstance(model.vision, OpenClipVision)
    assert model.vision.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert model.encode_images([noise(40, 60)]).sizes == ((4, 6),)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("openclip:ViT-B-16/laion2b_s34b_b88k", Source("ViT-B-16", tag="laion2b_s34b_b88k")),
        ("openclip:ViT-B/16/openai", Source("ViT-B-16", tag="openai")),
        ("hf-hub:timm/ViT-B-16-SigLIP", Source(hub="timm/ViT-B-16-SigLIP")),
    ],
)
def test_names(name: str, source: Source) -> None:
    assert parse_source(name) == source


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("openclip:ViT-B-17/openai", "no architecture 'ViT-B-17'; near it are ViT-B-16"),
        ("openclip:ViT-B-16/laion3b", "no weights 'laion3b' of ViT-B-16; it has openai, laion400m_e31"),
        ("openclip:ViT-B-16", "expected openclip:ARCH/PRETRAINED"),
        ("openclip:ViT-B-16@/no/such/file", "neither a file with weights"),
        ("openclip:@/no/such/folder", "nor a folder with an open_clip_config.json"),
        ("hf-hub:SigLIP", "expected hf-hub:ORG/NAME"),
        ("openclip:ViT-B-16/openai?methods=naclip", "unknown option methods; valid are method, regions"),
        ("openclip:ViT-B-16/openai?method=clip", "unknown method 'clip'; valid are auto, clearclip"),
        ("openclip:ViT-B-16/openai?regions=many", "invalid literal"),
        ("openclip:ViT-B-16/openai?precision=int8", "unknown precision 'int8'; valid are fp32, bf16"),
        ("openclip:ViT-B-16/openai?prompts=long", "unknown prompts 'long'; valid are none, photo"),
    ],
)
def test_names_that_no_model_answers_to_are_refused_with_the_way_out(name: str, message: str) -> None:
    with pytest.raises(ModelNotFound, match=message.replace("?", r"\?")):
        load_model(name)


@pytest.mark.parametrize("name", ["openclip:ViT-B-16/laion2b_s34b_b88k", "hf-hub:no-one/nothing"])
def test_without_a_network_the_message_says_so(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFound, match=r"not on this machine.*openclip:ARCH@FILE"):
        load_model(name)


def test_weights_of_another_architecture_are_refused(weights: Path, tmp_path: Path) -> None:
    state = tiny_clip("vit").clip.state_dict()
    del state["visual.proj"]
    save_file(state, tmp_path / "half.safetensors")
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 torn")
    for file, reason in [("half.safetensors", "visual.proj"), ("torn.pt", "")]:
        with pytest.raises(CheckpointError, match=f"(?s){file} holds no weights of tiny-vit.*{reason}"):
            load_model(f"openclip:tiny-vit@{tmp_path / file}")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("/nowhere/evil", "w"))


def test_pickles_are_not_run(weights: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil.pt holds no weights"):
        load_model(f"openclip:tiny-vit@{tmp_path / 'evil.pt'}")


# --- checkpoints --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["vit", "vit-average", "coca", "resnet", "siglip", "eva", "pe"])
def test_saved_models_load_as_they_were(family: str, tmp_path: Path) -> None:
    model = assemble(tiny_clip(family), RegionConfig(num_regions=12), ("a {}", "{}"), name="tiny")
    with torch.no_grad():  # as training would
        model.attention.key.weight += 0.01 * torch.randn_like(model.attention.key.weight)
        model.attention.null_key += 0.1
    save_model(model, tmp_path, card="# Tiny\n")
    loaded = load_model(tmp_path, device="cpu")
    same(model, loaded)
    assert (tmp_path / "README.md").read_text() == "# Tiny\n"
    assert loaded.calibration == model.calibration
    assert not list(tmp_path.glob(".*.tmp"))


def test_saved_models_can_be_packed(tmp_path: Path) -> None:
    model = assemble(tiny_clip("vit"), RegionConfig(), name="tiny")
    save_model(model, tmp_path, card="", quantized=True)
    loaded = load_model(tmp_path, device="cpu")
    cosines = (loaded.encode_texts(TEXTS) * model.encode_texts(TEXTS)).sum(-1)
    assert cosines.min() > 0.99
    whole = sum(value.numel() * 4 for value in model.state_dict().values())
    assert (tmp_path / "model.safetensors").stat().st_size < whole


def test_loaded_models_can_be_trained_on(tmp_path: Path) -> None:
    """Gradients reach both towers and the attention."""
    save_model(assemble(tiny_clip("vit"), RegionConfig(), name="tiny"), tmp_path, card="")
    model = load_model(tmp_path, device="cpu").train()
    frames = [model.preprocess(noise(50, 70)), model.preprocess(noise(70, 50))]
    images, texts = model.vision(frames), model.text(TEXTS)
    model.attention.cosine(images.regions, texts, images.mask).diagonal().sum().backward()
    for part in (
        "vision.visual.conv1.weight",
        "text.clip.token_embedding.weight",
        "attention.query.weight",
    ):
        gradient = model.get_parameter(part).grad
        assert gradient is not None, part
        assert gradient.abs().sum() > 0, part


@pytest.mark.parametrize("broken", ["model", "preprocess", "regions", "templates"])
def test_incomplete_configs_are_refused(broken: str, tmp_path: Path) -> None:
    save_model(assemble(tiny_clip("vit"), RegionConfig(), name="tiny"), tmp_path, card="")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["openclip"][broken]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not describe an open_clip model"):
        load_model(tmp_path)


# --- in use -------------------------------------------------------------------------------------------


def test_a_folder_is_indexed_and_searched_by_name(weights: Path, tmp_path: Path) -> None:
    """Stage 1 holds open_clip's own embeddings; maps have each picture's own grid."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, (height, width) in enumerate([(60, 90), (90, 60), (64, 64)]):
        noise(height, width, i).save(photos / f"{i}.png")
    name = f"openclip:tiny-vit@{weights}"
    with xattn.open(tmp_path / "index", name) as engine:
        report = engine.add(photos)
        assert len(report.added) == 3
        hits = engine.search("a red dog", k=3)
        assert {hit.path.name: hit.whole.weights.shape for hit in hits} == {
            "0.png": (4, 6),
            "1.png": (6, 4),
            "2.png": (5, 5),
        }
        paths, vectors = engine.embeddings()
    loaded = tiny_clip("vit")
    transform = image_transform_v2(PreprocessCfg(**loaded.preprocess_config), is_train=False)
    pixels = torch.stack([transform(Image.open(path)) for path in paths])
    with torch.inference_mode():
        own = loaded.clip.encode_image(pixels, normalize=True)
    torch.testing.assert_close(torch.from_numpy(vectors), own, atol=1e-5, rtol=1e-5)
    with pytest.raises(IndexMismatch), xattn.open(tmp_path / "index", f"{name}?method=naclip"):
        pass


def test_templates_are_clips_own() -> None:
    assert templates_of("none", "ViT-B-16") == ("{}",)
    assert len(templates_of("simple", "ViT-B-16")) == 7
    assert len(templates_of("imagenet", "ViT-B-16")) == 80
    assert templates_of("imagenet", "x")[0] == "a bad photo of a {}."
    assert templates_of("photo", "hf-hub:timm/ViT-B-16-SigLIP") == ("This is a photo of {}.",)


def test_evaluation_finds_open_clips_own_recall(weights: Path, tmp_path: Path) -> None:
    """Stage 1 alone on a COCO file beside its pictures, as the documented command runs it, against recall
    counted on open_clip's own embeddings."""
    from xattn.evaluation import evaluate, load_dataset

    listed, annotations = [], []
    for i in range(9):
        noise(48 + i, 64 - i, i).save(tmp_path / f"{i}.png")
        listed.append({"id": i, "file_name": f"{i}.png", "height": 48 + i, "width": 64 - i})
        for j in range(5):
            annotations.append(
                {"id": 5 * i + j, "image_id": i, "caption": f"{'abcdefghi'[i]} thing {j * 37}"}
            )
    file = tmp_path / "coco_test_karpathy.json"
    file.write_text(json.dumps({"images": listed, "annotations": annotations}))
    report = evaluate(load_model(f"openclip:tiny-vit@{weights}", device="cpu"), load_dataset(file))
    found = {
        (figure.group, figure.measure): figure.value.value
        for figure in report.figures
        if figure.subject == "pooled alone"
    }

    loaded = tiny_clip("vit")
    transform = image_transform_v2(PreprocessCfg(**loaded.preprocess_config), is_train=False)
    pixels = torch.stack([transform(Image.open(tmp_path / f"{i}.png").convert("RGB")) for i in range(9)])
    with torch.inference_mode():
        images = loaded.clip.encode_image(pixels, normalize=True)
        texts = loaded.clip.encode_text(
            loaded.tokenizer([a["caption"] for a in annotations]), normalize=True
        )
    similar = images @ texts.T
    owner = torch.arange(45) // 5
    for k in (1, 5):
        pictures = similar.topk(k, dim=0).indices
        captions = owner[similar.topk(k, dim=1).indices]
        text_to_image = (pictures == owner).any(0).float().mean().item()
        image_to_text = (captions == torch.arange(9)[:, None]).any(1).float().mean().item()
        assert found["text → image", f"recall@{k}"] == pytest.approx(text_to_image, abs=1e-6)
        assert found["image → text", f"recall@{k}"] == pytest.approx(image_to_text, abs=1e-6)
        assert 0 < text_to_image < 1
