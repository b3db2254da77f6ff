"""open_clip's own vision towers through ONNX Runtime, which is faster than torch on many CPUs.

The exported graph takes normalised pixels [B 3 h w] and the position embeddings [T C] of their grid, and
gives regions [B R D] and pooled features [B D], neither normalised. Batch and size are free: positions are
resampled outside, where they are cheap, because ONNX has no antialiased bicubic resampling as torch has it.
"""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xattn.encoders.dense import DenseMethod
from xattn.encoders.towers import ResNetTower, Tower, VitTower
from xattn.errors import CheckpointError, MissingExtra

OPSET = 18
SAMPLE_GRID = (3, 5)


class _Graph(nn.Module):
    def __init__(self, tower: Tower, method: DenseMethod) -> None:
        super().__init__()
        self.visual = tower.visual
        self._tower = tower
        self._method = method

    def forward(self, pixels: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self._tower.run(pixels, self._method, positions)


def export_tower(tower: Tower, method: DenseMethod, path: Path) -> None:
    """Writes the graph of a tower and a dense method.

    Raises CheckpointError for towers from timm, whose shapes do not stay free when they are exported;
    MissingExtra without the package onnx.
    """
    if not isinstance(tower, VitTower | ResNetTower):
        raise CheckpointError(
            "only open_clip's own towers, ViT and ResNet, can be exported, not those of timm"
        )
    _import("onnx", "exporting a model")
    weights = next(tower.visual.parameters())
    height, width = (cells * side for cells, side in zip(SAMPLE_GRID, tower.cell, strict=True))
    pixels = torch.zeros(2, 3, height, width, dtype=weights.dtype, device=weights.device)
    positions = tower.positions(SAMPLE_GRID).detach()
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter by tracing is deprecated, and warns of each size that Python code looks at.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Graph(tower, method).eval(),
            (pixels, positions),
            str(path),
            input_names=["pixels", "positions"],
            output_names=["regions", "pooled"],
            dynamic_axes={
                "pixels": {0: "batch", 2: "height", 3: "width"},
                "positions": {0: "tokens"},
                "regions": {0: "batch", 1: "regions"},
                "pooled": {0: "batch"},
            },
            opset_version=OPSET,
            dynamo=False,
        )


class OnnxTower:
    """An exported graph, for the weights that `tower` has now: it is not asked after they change."""

    def __init__(self, path: Path, tower: Tower) -> None:
        runtime = _import("onnxruntime", "running an exported model")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises many kinds
            raise CheckpointError(f"{path} is no graph that can be run: {error}") from error
        self._tower = tower
        self._versions = _versions(tower.visual)

    def usable(self, pixels: Tensor) -> bool:
        """Whether the graph stands for what the tower would do: on the CPU, without gradients."""
        return (
            pixels.device.type == "cpu"
            and pixels.dtype == torch.float32
            and not torch.is_grad_enabled()
            and not self._tower.visual.training
            and self._versions == _versions(self._tower.visual)
        )

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """As `Tower.encode`, with the method that was exported."""
        positions = self._tower.positions(self._tower.grid((pixels.shape[2], pixels.shape[3])))
        assert positions is not None  # `export_tower` takes only towers that have a table
        inputs = {"pixels": pixels.numpy(), "positions": positions.detach().numpy()}
        regions, pooled = self._session.run(None, inputs)
        return torch.from_numpy(regions), torch.from_numpy(pooled)


def _versions(visual: nn.Module) -> list[tuple[int, int]]:
    """Changes when a weight is replaced or written to; writes to inference tensors are not counted."""
    return [(id(p), -1 if p.is_inference() else p._version) for p in visual.parameters()]


def _import(package: str, needed_for: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtra(package, "onnx", needed_for) from error
