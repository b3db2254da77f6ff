"""Tokenizers of OpenCLIP's families: open_clip's own ids, kept with a saved model, clear when absent."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jaxtyping
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from tests.tiny_clip import DIM, FAMILIES, TEXT
from xattn.encoders.onnx.graphs import export_graphs
from xattn.encoders.onnx.runtime import Exported
from xattn.encoders.openclip.model import OpenClipText
from xattn.encoders.openclip.names import build_clip
from xattn.errors import CheckpointError, MissingExtra, ModelNotFound
from xattn.model import XAttnModel
from xattn.model.checkpoint import load_model, save_model

transformers = pytest.importorskip("transformers", reason="these tokenizers need the extra hf")

WORDS = ("[PAD]", "[EOS]", "[BOS]", "[UNK]", "eng_Latn", "A", "a", "Dog", "dog", "!")
PAD, EOS, BOS, UNK, ENG, BIG_A, A, BIG_DOG, DOG, MARK = range(10)

# By family: open_clip's settings as in its configs; beginning, end and padding of the tokenizer; the ids of
# "  A  Dog! " and of a text that is too long, written by hand.
CASES: dict[str, Any] = {
    "siglip": (  # cleaned of case and punctuation, no beginning, padded with the end
        {"context_length": 6, "tokenizer_kwargs": {"clean": "canonicalize"}},
        ("", "[EOS]", "[EOS]"),
        [A, DOG, EOS, EOS, EOS, EOS],
        [DOG, DOG, DOG, DOG, DOG, EOS],
    ),
    "siglip2": (
        {"context_length": 8, "tokenizer_kwargs": {"clean": "canonicalize"}},
        ("", "[EOS]", "[PAD]"),
        [A, DOG, EOS, PAD, PAD, PAD, PAD, PAD],
        [DOG, DOG, DOG, DOG, DOG, DOG, DOG, EOS],
    ),
    "clipa": (  # the separator is struck out
        {"context_length": 6, "tokenizer_kwargs": {"strip_sep_token": True}},
        ("[BOS]", "[EOS]", "[PAD]"),
        [BOS, BIG_A, BIG_DOG, MARK, PAD, PAD],
        [BOS, DOG, DOG, DOG, DOG, PAD],
    ),
    "roberta": (
        {"context_length": 7},
        ("[BOS]", "[EOS]", "[PAD]"),
        [BOS, BIG_A, BIG_DOG, MARK, EOS, PAD, PAD],
        [BOS, DOG, DOG, DOG, DOG, DOG, EOS],
    ),
    "nllb": (  # the language comes first
        {"context_length": 7},
        ("eng_Latn", "[EOS]", "[PAD]"),
        [ENG, BIG_A, BIG_DOG, MARK, EOS, PAD, PAD],
        [ENG, DOG, DOG, DOG, DOG, DOG, EOS],
    ),
    "clips": (  # a class token at the very end
        {"context_length": 8, "tokenizer_mode": "clips"},
        ("[BOS]", "[EOS]", "[PAD]"),
        [BOS, BIG_A, BIG_DOG, MARK, EOS, PAD, PAD, BOS],
        [BOS, DOG, DOG, DOG, DOG, DOG, EOS, BOS],
    ),
}


def write_tokenizer(directory: Path, start: str, end: str, padding: str) -> None:
    """A tokenizer of ten words, as repositories on the hub hold theirs."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = [(word, WORDS.index(word)) for word in (start, end) if word]
    words.post_processor = processors.TemplateProcessing(f"{start} $A {end}".strip(), None, specials)
    names = {"cls_token": "[BOS]", "bos_token": "[BOS]", "eos_token": "[EOS]", "sep_token": "[EOS]"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=padding, unk_token="[UNK]", **names
    ).save_pretrained(str(directory))


def add_model(name: str, directory: Path, tokenizer: str, settings: dict[str, Any]) -> Path:
    """Makes an architecture known to open_clip; returns a file with random weights of it."""
    text = {**TEXT, "vocab_size": len(WORDS), **settings, "hf_tokenizer_name": tokenizer}
    config = {"embed_dim": DIM, "vision_cfg": FAMILIES["vit"], "text_cfg": text, "custom_text": True}
    (directory / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(directory / f"{name}.json")
    torch.manual_seed(0)
    tower = settings.get("hf_model_name")
    weights = directory / f"{name}.safetensors"
    save_file(build_clip(config, Path(tower) if tower else None).state_dict(), weights)
    return weights


def ids_of(model: XAttnModel, texts: list[str]) -> list[list[int]]:
    assert isinstance(model.text, OpenClipText)
    return model.text.tokenize(texts).tolist()


@pytest.mark.parametrize("family", CASES)
def test_ids_are_open_clips_own(family: str, tmp_path: Path) -> None:
    """Cleaning, context length, padding and special tokens, before and after saving."""
    settings, specials, *expected = CASES[family]
    write_tokenizer(tmp_path / "words", *specials)
    weights = add_model(f"tiny-{family}", tmp_path, str(tmp_path / "words"), settings)
    model = load_model(f"openclip:tiny-{family}@{weights}", device="cpu")
    texts = ["  A  Dog! ", "dog " * 20]
    assert ids_of(model, texts) == expected
    assert open_clip.get_tokenizer(f"tiny-{family}")(texts).tolist() == expected
    embeddings = model.encode_texts(texts)

    save_model(model, tmp_path / "saved", card="")
    shutil.rmtree(tmp_path / "words")
    again = load_model(tmp_path / "saved", device="cpu")
    assert ids_of(again, texts) == expected
    torch.testing.assert_close(again.encode_texts(texts), embeddings)


SIZES = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
T5_SIZES = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
M2M_SIZES = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
M2M_SIZES |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
# Config class of transformers, its sizes, open_clip's pooler: RoBERTa's kind, BERT's, mT5's and NLLB's.
TOWERS = {
    "roberta": ("RobertaConfig", {**SIZES, "max_position_embeddings": 12}, "mean_pooler"),
    "bert": ("BertConfig", {**SIZES, "max_position_embeddings": 12}, "cls_pooler"),
    "mt5": ("MT5Config", T5_SIZES, "mean_pooler"),
    "nllb": ("M2M100Config", {**M2M_SIZES, "max_position_embeddings": 12}, "cls_pooler"),
}


@pytest.mark.parametrize("kind", TOWERS)
def test_text_towers_from_transformers(kind: str, tmp_path: Path) -> None:
    """open_clip's own embeddings: as loaded, after saving, and by ONNX Runtime for texts of any number."""
    config, sizes, pooler = TOWERS[kind]
    settings, specials, *_ = CASES["roberta"]
    words = tmp_path / "words"
    write_tokenizer(words, *specials)
    tower_config = getattr(transformers, config)(vocab_size=len(WORDS), pad_token_id=PAD, **sizes)
    tower_config.save_pretrained(str(words))
    tower = {"hf_model_name": str(words), "hf_proj_type": "mlp", "hf_pooler_type": pooler}
    weights = add_model(f"tiny-{kind}-tower", tmp_path, str(words), {**settings, **tower})
    model = load_model(f"openclip:tiny-{kind}-tower@{weights}", device="cpu")
    clip = open_clip.create_model(f"tiny-{kind}-tower", pretrained=str(weights), weights_only=True).eval()
    texts = ["a dog", "A Dog!", "dog dog dog dog dog dog a"]
    with torch.inference_mode():
        own = clip.encode_text(open_clip.get_tokenizer(f"tiny-{kind}-tower")(texts), normalize=True)
    torch.testing.assert_close(model.encode_texts(texts), own, atol=1e-5, rtol=1e-5)

    save_model(model, tmp_path / "saved", card="")
    shutil.rmtree(words)
    again = load_model(tmp_path / "saved", device="cpu")
    torch.testing.assert_close(again.encode_texts(texts), own, atol=1e-5, rtol=1e-5)

    pytest.importorskip("onnxruntime")
    jaxtyping.config.update("jaxtyping_disable", True)  # while traced, sizes are tensors
    try:
        export_graphs(model.vision, model.text, tmp_path / "saved")
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    exported = load_model(tmp_path / "saved", device="cpu")
    text: Any = exported.text
    assert isinstance(text.features, Exported)
    torch.testing.assert_close(exported.encode_texts(texts), own, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(exported.encode_texts(texts[:1]), own[:1], atol=1e-5, rtol=1e-5)


def test_a_sentencepiece_model(tmp_path: Path) -> None:
    """mT5's tokenizer comes as a `.model` file: its own pieces and an end, before and after saving."""
    sentencepiece = pytest.importorskip("sentencepiece")
    words = tmp_path / "words"
    words.mkdir()
    sentences = ["a dog", "a dog runs", "two cats sleep on a red sofa", "the red dog sleeps"] * 30
    ids = {"pad_id": PAD, "eos_id": EOS, "unk_id": 2, "bos_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(words / "spiece"),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
        **ids,
    )
    told = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "extra_ids": 0}
    (words / "tokenizer_config.json").write_text(json.dumps(told))
    (words / "config.json").write_text(json.dumps({"model_type": "mt5"}))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(words / "spiece.model"))
    settings = {"context_length": 20, "vocab_size": pieces.vocab_size()}
    weights = add_model("tiny-pieces", tmp_path, str(words), settings)
    model = load_model(f"openclip:tiny-pieces@{weights}", device="cpu")
    texts = ["a dog", "two red cats"]
    expected = [[*pieces.encode(text), EOS] for text in texts]
    expected = [found + [PAD] * (20 - len(found)) for found in expected]
    assert ids_of(model, texts) == expected
    save_model(model, tmp_path / "saved", card="")
    shutil.rmtree(words)
    assert ids_of(load_model(tmp_path / "saved", device="cpu"), texts) == expected


def test_a_folder_with_its_tokenizer(tmp_path: Path) -> None:
    """`openclip:@DIR` reads the tokenizer from the folder, whatever name its config gives."""
    settings, specials, expected, _ = CASES["siglip"]
    weights = add_model("tiny-folder", tmp_path, "no-one/nothing", settings)
    config = {"model_cfg": open_clip.get_model_config("tiny-folder"), "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(CheckpointError, match=f"{tmp_path} does not hold its tokenizer"):
        load_model(f"openclip:@{tmp_path}")
    write_tokenizer(tmp_path, *specials)
    assert ids_of(load_model(f"openclip:@{tmp_path}", device="cpu"), [" A  Dog! "]) == [expected]


def test_a_tokenizer_that_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is of the tokenizer, not of the weights, which are there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    weights = add_model("tiny-far", tmp_path, "no-one/nothing", CASES["siglip"][0])
    with pytest.raises(ModelNotFound, match=r"(?s)tokenizer.*'no-one/nothing' of .*Connect.*openclip:@DIR"):
        load_model(f"openclip:tiny-far@{weights}")


def test_without_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for before anything is downloaded; models with CLIP's own tokenizer never ask."""
    settings, specials, *_ = CASES["siglip"]
    write_tokenizer(tmp_path / "words", *specials)
    weights = add_model("tiny-bare", tmp_path, str(tmp_path / "words"), settings)
    save_model(load_model(f"openclip:tiny-bare@{weights}", device="cpu"), tmp_path / "saved", card="")
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in (f"openclip:tiny-bare@{weights}", "openclip:ViT-B-16-SigLIP/webli", tmp_path / "saved"):
        with pytest.raises(MissingExtra, match=r"pip install 'xattn\[hf\]'"):
            load_model(name)
