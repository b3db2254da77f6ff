"""Training from end to end: weights from packages, settings by name, a smoke run."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from torch.nn import functional as F

from tests.tiny_training import (  # noqa: F401  fixtures
    SMOKE,
    cache_fixture,
    data_fixture,
    dataset_fixture,
    features_fixture,
    model_fixture,
    tiny_nets_fixture,
    write_records,
)
from training import towers
from training.__main__ import main
from training.recipes import changed, default
from xattn.encoders.hybrid.text import SentenceConfig, SentenceEncoder
from xattn.errors import CheckpointError, DataError, MissingExtra
from xattn.model.checkpoint import load_model
from xattn.training.features import ViewFeatures

# Towers


def test_bert_weights_in_torch_modules() -> None:
    """Against BERT written out (Devlin et al. 2018), random weights, three texts of other lengths."""
    torch.manual_seed(3)
    width, heads, config = (
        12,
        3,
        SentenceConfig(4, 9, width=12, num_layers=2, num_heads=3, feedforward=20, max_tokens=6),
    )
    shapes = {
        "embeddings.word_embeddings.weight": (9, width),
        "embeddings.position_embeddings.weight": (11, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    linear = {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")}
    linear |= {"attention.output.dense": (width, width), "intermediate.dense": (20, width)}
    linear |= {"output.dense": (width, 20)}
    for layer in range(2):
        prefix = f"encoder.layer.{layer}."
        for name, shape in linear.items():
            shapes |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{prefix}{name}.weight": (width,), f"{prefix}{name}.bias": (width,)}
    bert = {name: torch.randn(shape) * 0.5 for name, shape in shapes.items()}

    words = {word: index for index, word in enumerate("abcdefghi")}
    encoder = SentenceEncoder(config, Tokenizer(WordLevel(words, unk_token="a"))).eval()
    encoder.load_state_dict(towers.text_state(bert, config), strict=False)
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 0, 0, 0]])
    valid = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    with torch.inference_mode():
        found = encoder.sentences(encoder.features(ids, valid))
    for row, length in enumerate((4, 2, 1)):
        torch.testing.assert_close(
            found[row], reference_bert(bert, ids[row, :length], heads), atol=1e-5, rtol=0
        )


def reference_bert(bert: dict[str, Tensor], ids: Tensor, heads: int) -> Tensor:
    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], bert[f"{name}.weight"], bert[f"{name}.bias"], 1e-12)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, bert[f"{name}.weight"], bert[f"{name}.bias"])

    x = bert["embeddings.word_embeddings.weight"][ids]
    x = x + bert["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + bert["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(2):
        own = f"encoder.layer.{layer}"
        q, k, v = (
            linear(x, f"{own}.attention.self.{part}").view(len(ids), heads, -1).transpose(0, 1)
            for part in ("query", "key", "value")
        )
        read = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        read = linear(read.transpose(0, 1).flatten(1), f"{own}.attention.output.dense")
        x = norm(x + read, f"{own}.attention.output.LayerNorm")
        wide = F.gelu(linear(x, f"{own}.intermediate.dense"))
        x = norm(x + linear(wide, f"{own}.output.dense"), f"{own}.output.LayerNorm")
    return F.normalize(x.mean(0), dim=-1)


@pytest.mark.parametrize("package", [towers.CONV_PACKAGE, towers.VIT_PACKAGE, towers.TEXT_PACKAGE, "onnx"])
def test_absent_packages_are_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = package.replace("-", "_")
    found = importlib.util.find_spec("json")
    monkeypatch.setattr(towers, "find_spec", lambda name: None if name == missing else found)
    load: Callable[[], object] = {
        towers.CONV_PACKAGE: lambda: towers.conv_state({}),
        towers.TEXT_PACKAGE: lambda: towers.load_text(SentenceConfig()),
    }.get(package, lambda: towers.vit_state({}))
    with pytest.raises(MissingExtra, match=rf"'{package}'.*xattn\[train\]"):
        load()


def test_weights_that_do_not_fit_are_named() -> None:
    own = {"a.weight": torch.zeros(2, 3), "b": torch.zeros(1)}
    with pytest.raises(
        CheckpointError, match=r"a\.weight \(expected \(2, 3\), found \(3, 2\)\).*b \(expected"
    ):
        towers._fitted(own, {"a.weight": torch.zeros(3, 2)}, "some-package")


# Recipes and the whole path


def test_settings_are_changed_by_name() -> None:
    recipe = changed(default(), {"epochs": "3", "dropout": "0.5"})
    assert (recipe.epochs, recipe.dropout, recipe.views) == (3, 0.5, default().views)
    with pytest.raises(DataError, match=r"'epoch'.*valid are.*epochs"):
        changed(default(), {"epoch": "3"})
    with pytest.raises(DataError, match="epochs: expected int, got 'many'"):
        changed(default(), {"epochs": "many"})


def smoke_run(data: Path, out: Path, cache: Path, *more: str) -> list[dict[str, float]]:
    places = ["--data", str(data), "--out", str(out), "--cache", str(cache)]
    credits = ["--leave-out", str(data / "credits.json")]
    assert main(["default", "--smoke", *places, *credits, *more]) == 0
    log = out.with_name(f"{out.name}-log.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in log.splitlines()]


def test_smoke_run(
    data: Path,
    features: list[ViewFeatures],
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = shutil.copytree(cache, tmp_path / "cache")  # half of it is there: as after a run broken off
    log = smoke_run(data, tmp_path / "one", cache)
    assert [entry["teacher"] for entry in log if "teacher" in entry] == [1.0] * 4 + [2.0] * 4 + [3.0] * 8, (
        "half of eight pictures each, then all"
    )
    copying = [entry["loss"] for entry in log if "copy" in entry]
    assert copying[-1] < 0.5 * copying[0]
    runs = [[entry for entry in log if entry.get("run") == number] for number in (1, 2)]
    for steps in runs:
        assert [entry["step"] for entry in steps] == list(range(1, SMOKE.epochs * 2 + 1))
        losses = [entry["loss"] for entry in steps]
        assert sum(losses[-4:]) < 0.9 * sum(losses[:4]), "nothing was learned"
        assert all(math.isfinite(loss) for loss in losses)
    assert runs[0][0]["boxes"] != runs[1][0]["boxes"], "the same batches"
    assert "features 36/36" in capsys.readouterr().out

    model = load_model(tmp_path / "one", device="cpu")
    assert model.calibration.logit_scale == pytest.approx(log[-1]["calibration"]["logit_scale"])  # type: ignore[index]
    picture = Image.open(data / "1.png").convert("RGB")
    grounding = model.ground(picture, ["green"])[0]
    assert grounding.weights.sum() + grounding.null_weight == pytest.approx(1, abs=1e-5)

    random.seed(99)
    torch.manual_seed(99)
    again = smoke_run(data, tmp_path / "two", cache)
    timeless = [{k: v for k, v in entry.items() if k != "seconds"} for entry in log]
    assert timeless == [{k: v for k, v in entry.items() if k != "seconds"} for entry in again]


def test_training_learns_from_wrong_captions_and_from_boxes_alone(data: Path, tmp_path: Path) -> None:
    def run(name: str, *more: str, **silent: list[str]) -> list[dict[str, float]]:
        folder = Path(shutil.copytree(data, tmp_path / name))
        records = [json.loads(line) for line in (data / "records.jsonl").read_text("utf-8").splitlines()]
        few = (104, 107, 109, 112)
        write_records(folder, [record | silent if record["id"] in few else record for record in records])
        return smoke_run(folder, tmp_path / f"{name}-out", tmp_path / f"{name}-cache", *more)

    boxed = run("boxed", captions=[])
    assert boxed[0]["texts"] > run("right", "--set", "swaps=0", captions=[])[0]["texts"]
    left_out = run("left-out", captions=[], boxes=[], phrases=[])
    assert boxed[0]["pictures"] == left_out[0]["pictures"], "with captions"
    last_steps = [max(e["step"] for e in log if e.get("run") == 1) for log in (boxed, left_out)]
    assert last_steps[0] > last_steps[1], "four pictures more, a batch more an epoch"


def test_errors_are_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["default", "--smoke", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--leave-out", str(data / "credits.json")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
