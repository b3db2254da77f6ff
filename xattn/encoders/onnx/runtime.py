"""Towers through ONNX Runtime, which is faster than torch on many CPUs.

A graph is exported of any function of tensors whose weights belong to a module, by running it once: what a
tower does need not be written twice. Every size of every input stays free, as far as the function lets it.
What torch's exporter cannot do is taught to it: resampling with antialiasing, which position embeddings
need, repeating along the last axis, which rotary positions need, and torch's own attention without the
sizes it was exported with.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xattn.encoders.digest import weight_parts
from xattn.errors import CheckpointError, MissingExtra

OPSET = 18
INT64 = 7
"""ONNX's number for the type."""
RESAMPLING = {"aten::_upsample_bicubic2d_aa": "cubic", "aten::_upsample_bilinear2d_aa": "linear"}
"""Torch's operators for it with antialiasing, and ONNX's names of the modes."""
Function = Callable[..., Tensor | tuple[Tensor, ...]]


def export_function(function: Function, module: nn.Module, sample: Sequence[Tensor], path: Path) -> None:
    """Writes the graph of `function(*sample)`, which may depend on the weights of `module` alone.

    sample: its inputs, of the types and numbers of axes they will have; what Python code decides by their
    values is decided for ever. Raises CheckpointError if the function holds something that ONNX cannot
    express, MissingExtra without the package onnx.
    """
    _import("onnx", "exporting a model")
    with torch.no_grad():
        outputs = function(*sample)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    inputs = [*inspect.signature(function).parameters][: len(sample)]
    names = [f"output{i}" for i in range(len(outputs))]
    values = zip([*inputs, *names], [*sample, *outputs], strict=True)
    free = {name: {axis: f"{name}_{axis}" for axis in range(value.ndim)} for name, value in values}
    try:
        with _exporting():
            torch.onnx.export(
                _Traced(function, module).eval(),
                tuple(sample),
                str(path),
                input_names=inputs,
                output_names=names,
                dynamic_axes=free,
                opset_version=OPSET,
                dynamo=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        summary = str(error).partition("\n")[0]
        raise CheckpointError(f"{type(module).__name__} cannot be exported: {summary}") from error


class _Traced(nn.Module):
    """A function as a module, with the module that holds its weights, which are then named in the graph."""

    def __init__(self, function: Function, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._function = function

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self._function(*inputs)


DIGEST_KEY = "xattn.weights"
"""In a graph's metadata: which weights it was exported for."""


def weights_digest(module: nn.Module) -> str:
    """Hex digest (BLAKE2b) of every weight of a module, with names, shapes and dtypes."""
    digest = hashlib.blake2b(digest_size=16)
    for part in weight_parts(module.state_dict()):
        digest.update(part)
    return digest.hexdigest()


def stamp(path: Path, digest: str) -> None:
    """Notes in a graph's file for which weights it was exported.

    Raises:
        MissingExtra: the package onnx is not installed.
    """
    onnx = _import("onnx", "exporting a model")
    graph = onnx.load(str(path))
    onnx.helper.set_model_props(graph, {DIGEST_KEY: digest})
    onnx.save(graph, str(path))


class Graph:
    """An exported function, for the weights that `module` has now: it must not be asked after they change.

    weights_digest: of the weights it was exported for (`weights_digest`), "" if the file does not say.

    Raises CheckpointError if the file is no graph, MissingExtra without the package onnxruntime.
    """

    def __init__(self, path: Path, module: nn.Module) -> None:
        runtime = _import("onnxruntime", "running an exported model")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises many kinds
            raise CheckpointError(f"{path} is no graph that can be run: {error}") from error
        noted = self._session.get_modelmeta().custom_metadata_map
        self.weights_digest: str = noted.get(DIGEST_KEY, "")
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._path = path
        self._module = module
        self._versions = _versions(module)

    def usable(self, *inputs: Tensor) -> bool:
        """Whether the graph stands for what the function would do: on the CPU, without gradients."""
        return (
            all(value.device.type == "cpu" for value in inputs)
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and not self._module.training
            and self._versions == _versions(self._module)
        )

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = {name: value.numpy() for name, value in zip(self._inputs, inputs, strict=True)}
        try:
            found = self._session.run(None, given)
        except Exception as error:  # the runtime raises many kinds
            raise CheckpointError(
                f"{self._path} does not fit this model: {error}. Was it written by another version of "
                "xattn? Export the model again."
            ) from error
        return tuple(torch.from_numpy(value) for value in found)


class Exported:
    """Stands in for a method of `module` whose inputs are tensors: runs its graph where that is the same
    thing, and the method itself elsewhere. Copies of the module have the plain method again.

    output: which of the graph's outputs the method gives; None: all of them
    """

    def __init__(self, module: nn.Module, method: str, graph: Graph, output: int | None = None) -> None:
        self._method = MethodType(getattr(type(module), method), module)
        self._graph = graph
        self._output = output
        setattr(module, method, self)

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        if not self._graph.usable(*inputs):
            return self._method(*inputs)
        found = self._graph(*inputs)
        if self._output is not None:
            return found[self._output]
        return found if len(found) > 1 else found[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return MethodType, (self._method.__func__, self._method.__self__)


def _versions(module: nn.Module) -> list[tuple[int, int]]:
    """Changes when a weight is replaced or written to; writes to inference tensors are not counted."""
    return [(id(p), -1 if p.is_inference() else p._version) for p in module.parameters()]


def _import(package: str, needed_for: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtra(package, "onnx", needed_for) from error


# --- what torch's exporter is taught --------------------------------------------------------------------


@contextmanager
def _exporting() -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    attention = nn.MultiheadAttention.forward
    unflatten, repeat_interleave = Tensor.unflatten, Tensor.repeat_interleave
    torch.backends.mha.set_fastpath_enabled(False)
    nn.MultiheadAttention.forward = _attend  # type: ignore[assignment, method-assign]
    Tensor.unflatten = _unflatten  # type: ignore[method-assign]
    Tensor.repeat_interleave = _repeat_interleave  # type: ignore[method-assign, assignment]
    exporter: Any = torch.onnx
    for operator, mode in RESAMPLING.items():
        exporter.register_custom_op_symbolic(operator, partial(_resize, mode), OPSET)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The exporter by tracing is deprecated, and warns of each size that Python code looks at.
            warnings.simplefilter("ignore")
            yield
    finally:
        for operator in RESAMPLING:
            exporter.unregister_custom_op_symbolic(operator, OPSET)
        nn.MultiheadAttention.forward = attention  # type: ignore[method-assign]
        Tensor.unflatten = unflatten  # type: ignore[method-assign]
        Tensor.repeat_interleave = repeat_interleave  # type: ignore[method-assign]
        torch.backends.mha.set_fastpath_enabled(fast)


def _resize(mode: str, graph: Any, picture: Any, size: Any, align_corners: Any, *scales: Any) -> Any:
    """ONNX's Resize, set as torch resamples with antialiasing: a = -1/2 where cubic, and weights that fall
    outside are shared out."""
    from torch.onnx.symbolic_helper import _unpack_list  # slow to import, needed for exporting alone

    del align_corners, scales

    def integers(*values: int) -> Any:
        return graph.op("Constant", value_t=torch.tensor(values))

    sizes = [graph.op("Unsqueeze", side, integers(0)) for side in _unpack_list(size)]
    sizes = [graph.op("Cast", side, to_i=INT64) for side in sizes]
    batch_and_channels = graph.op("Slice", graph.op("Shape", picture), integers(0), integers(2))
    return graph.op(
        "Resize",
        picture,
        graph.op("Constant", value_t=torch.zeros(0)),
        graph.op("Constant", value_t=torch.zeros(0)),
        graph.op("Concat", batch_and_channels, *sizes, axis_i=0),
        mode_s=mode,
        antialias_i=1,
        cubic_coeff_a_f=-0.5,
        exclude_outside_i=1,
        coordinate_transformation_mode_s="half_pixel",
    )


def _unflatten(x: Tensor, axis: int, sizes: Sequence[int]) -> Tensor:
    """`Tensor.unflatten`, of which torch's exporter makes fixed sizes."""
    before, after = x.shape[: axis % x.ndim], x.shape[axis % x.ndim + 1 :]
    return x.reshape(*before, *sizes, *after)


def _repeat_interleave(x: Tensor, repeats: int | Tensor, axis: int | None = None, **options: Any) -> Tensor:
    """`Tensor.repeat_interleave` with an axis counted from the front: torch's exporter adds to one that is
    counted from the back in place, and so to every other -1 of the graph, which are one constant."""
    axis = None if axis is None else axis % x.ndim
    return torch.repeat_interleave(x, repeats, axis, **options)


def _attend(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`nn.MultiheadAttention.forward` for batches, written so that no size is fixed. Masks are those of
    torch: True, or minus infinity, where nothing may be seen."""
    del is_causal  # a hint that attn_mask is causal
    inputs = [query, key, value]
    if not module.batch_first:
        inputs = [x.transpose(0, 1) for x in inputs]
    weights: list[Tensor] = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    if module.in_proj_weight is not None:
        weights = [*module.in_proj_weight.chunk(3)]
    biases = [None] * 3 if module.in_proj_bias is None else [*module.in_proj_bias.chunk(3)]
    q, k, v = (
        F.linear(x, weight, bias).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for x, weight, bias in zip(inputs, weights, biases, strict=True)
    )
    logits = q @ k.transpose(-2, -1) * module.head_dim**-0.5
    padding = None if key_padding_mask is None else key_padding_mask[:, None, None]
    for mask in (padding, attn_mask):
        if mask is not None:
            logits = logits.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    shares = logits.softmax(-1)
    read = module.out_proj((shares @ v).transpose(1, 2).flatten(2))
    if not module.batch_first:
        read = read.transpose(0, 1)
    shares = shares.mean(1) if average_attn_weights else shares
    return read, shares if need_weights else None
