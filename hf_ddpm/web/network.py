"""A denoising network as an ONNX file that a browser runs: `export_network(network, weight_bits=16)`.

Its inputs are `sample` (B, C, H, W) float32, `timesteps` (B,) float32 and, with classes, `class_labels` (B,) int32; its
output is `output` (B, C, H, W) float32. B is 1 to `MAX_BATCH`.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

WeightBits = Literal[8, 16, 32]
MAX_BATCH = 32
"""Images in a call of the exported network; the layers of diffusers treat batches of 64 and more in another way."""
TOLERANCE: dict[WeightBits, float] = {8: 0.03, 16: 5e-4, 32: 1e-4}
"""Largest difference of the outputs of the exported and of the original network, by the bits of its weights: root mean
square, relative to that of the output."""
PACKED_FROM = 256
"""Numbers in a tensor from which on it is stored with fewer bits; smaller ones, such as biases, are exact."""
OPSET = 18


def export_network(network: Any, *, weight_bits: WeightBits = 16) -> bytes:
    """Export a network, check it with onnxruntime against PyTorch, and return the ONNX file.

    Weights of 8 or 16 bits are integers with one scale for each output channel, and become float32 when the file is loaded.
    16 of these bits are closer to float32 than float16 is, whose steps are coarse near the largest weights.

    Raises:
        ValueError: the difference of the two networks is larger than `TOLERANCE` allows.
    """
    network = network.eval()
    model = _to_onnx(network)
    if weight_bits != 32:
        _pack_weights(model.graph, weight_bits)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    error = relative_error(content, network)
    if not error <= TOLERANCE[weight_bits]:
        remedy = "give 16 or 32" if weight_bits == 8 else "the exported network cannot be trusted"
        limit = f"at most {TOLERANCE[weight_bits]:.2%} is allowed"
        raise ValueError(f"weight_bits is {weight_bits}: outputs differ from PyTorch's by {error:.2%}, {limit}: {remedy}")
    return content


def relative_error(model: bytes, network: Any) -> float:
    """Difference of the outputs of an exported and of the original network, as in `TOLERANCE`: for one image and several,
    at timesteps of the whole process."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    squares = {"difference": 0.0, "output": 0.0}
    embeddings = getattr(network.config, "num_class_embeds", None) or 1
    for batch in (1, 4, 4):
        sample, timesteps, labels = _inputs(network, batch)
        sample = torch.randn(sample.shape, generator=generator)
        timesteps = torch.rand(batch, generator=generator) * 999
        labels = torch.randint(embeddings, (batch,), generator=generator, dtype=torch.int32)
        with torch.no_grad():
            expected = _Exported(network)(sample, timesteps, labels).numpy()
        given = {"sample": sample.numpy(), "timesteps": timesteps.numpy(), "class_labels": labels.numpy()}
        known = {one.name for one in session.get_inputs()}
        (output,) = session.run(None, {name: value for name, value in given.items() if name in known})
        squares["difference"] += float(np.square(output - expected, dtype=np.float64).sum())
        squares["output"] += float(np.square(expected, dtype=np.float64).sum())
    return (squares["difference"] / squares["output"]) ** 0.5


class _Exported(torch.nn.Module):
    """A network with float timesteps, the inputs that it needs, and without a learned variance."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.channels = network.config.in_channels
        self.is_conditional = getattr(network.config, "num_class_embeds", None) is not None

    def forward(self, sample: Tensor, timesteps: Tensor, class_labels: Tensor | None = None) -> Tensor:
        labels = class_labels.long() if self.is_conditional and class_labels is not None else None
        output: Tensor = self.network(sample, timesteps, class_labels=labels, return_dict=False)[0]
        return output[:, : self.channels]


def _inputs(network: Any, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    size, channels = network.config.sample_size, network.config.in_channels
    height, width = (size, size) if isinstance(size, int) else size
    return torch.zeros(batch, channels, height, width), torch.zeros(batch), torch.zeros(batch, dtype=torch.int32)


def _to_onnx(network: Any) -> onnx.ModelProto:
    exported = _Exported(network).eval()
    names = ["sample", "timesteps", "class_labels"][: 3 if exported.is_conditional else 2]
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries about themselves
        program: Any = torch.onnx.export(
            exported,
            _inputs(network, 2)[: len(names)],
            dynamo=True,
            input_names=names,
            output_names=["output"],
            dynamic_shapes=tuple({0: batch} for _ in names),
            opset_version=OPSET,
            verbose=False,
        )
    model: onnx.ModelProto = program.model_proto
    # They hold the stack of each operation, with the paths of this machine.
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    return model


def _pack_weights(graph: onnx.GraphProto, bits: WeightBits) -> None:
    """Store the large float tensors as integers with a scale for each row, and compute them from these."""
    limit, integer, name_of_type = 2 ** (bits - 1) - 1, np.dtype(f"int{bits}"), "packed"
    kept, packed, nodes = [], [], []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < PACKED_FROM:
            kept.append(tensor)
            continue
        values = numpy_helper.to_array(tensor).astype(np.float64)
        rows = tuple(range(1, values.ndim))
        scales = np.maximum(np.abs(values).max(axis=rows, keepdims=True) / limit, np.finfo(np.float32).tiny)
        scales = scales.astype(np.float32)
        name, scaled = f"{tensor.name}.{name_of_type}", f"{tensor.name}.float"
        packed.append(numpy_helper.from_array(np.rint(values / scales).astype(integer), name))
        packed.append(numpy_helper.from_array(scales, f"{tensor.name}.scales"))
        nodes.append(helper.make_node("Cast", [name], [scaled], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [scaled, f"{tensor.name}.scales"], [tensor.name]))
    rest = list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend([*kept, *packed])
    graph.node.extend([*nodes, *rest])
