"""Real models for LiteRT, made without TensorFlow. Tests may change a part of a model before they `pack` it."""

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from support.bundles import fake_predict

OP = schema.BuiltinOperator
INT32, FLOAT32 = schema.TensorType.INT32, schema.TensorType.FLOAT32
TYPES = {"uint8": schema.TensorType.UINT8, "int32": INT32, "float32": FLOAT32}
OPTIONS = schema.BuiltinOptions


class GraphBuilder:
    """Build a model (ModelT) of one graph with one signature, for any number of rows."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        """Start with the input: (n, *shape) of this dtype, tensor number 0."""
        self.model = schema.ModelT()
        self.model.version, self.model.buffers, self.model.operatorCodes = 3, [schema.BufferT()], []
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self.model.subgraphs = [self._graph]
        self.input = self.tensor("inputs", TYPES[dtype], shape)

    def tensor(self, name: str, kind: int, shape: tuple[int, ...]) -> int:
        """Add a tensor with one array of this shape per row; return its number."""
        made = schema.TensorT()
        made.name, made.type, made.buffer, made.hasRank = name.encode(), kind, 0, True
        made.shape, made.shapeSignature = [1, *shape], [-1, *shape]
        self._graph.tensors.append(made)
        return len(self._graph.tensors) - 1

    def constant(self, name: str, data: np.ndarray) -> int:
        """Add a tensor with constant data, int32 or float32; return its number."""
        number = self.tensor(name, TYPES[data.dtype.name], ())
        made, buffer = self._graph.tensors[number], schema.BufferT()
        made.shape, made.shapeSignature, made.buffer = list(data.shape), None, len(self.model.buffers)
        buffer.data = np.frombuffer(data.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        return number

    def operator(self, code: int, inputs: list[int], output: int, options: Any = None) -> int:
        """Add an operator from tensors to a tensor; return the number of the output."""
        described, made = schema.OperatorCodeT(), schema.OperatorT()
        described.builtinCode = described.deprecatedBuiltinCode = code
        described.version = 1
        made.opcodeIndex, made.inputs, made.outputs = len(self.model.operatorCodes), inputs, [output]
        if options is not None:
            made.builtinOptions = options
            made.builtinOptionsType = getattr(OPTIONS, type(options).__name__.removesuffix("T"))
        self.model.operatorCodes.append(described)
        self._graph.operators.append(made)
        return output

    def cast(self, start: int, name: str, kind: int, shape: tuple[int, ...]) -> int:
        """Add a conversion to another dtype."""
        options = schema.CastOptionsT()
        options.inDataType, options.outDataType = self._graph.tensors[start].type, kind
        return self.operator(OP.CAST, [start], self.tensor(name, kind, shape), options)

    def finish(self, output: int) -> Any:
        """Make this tensor the output, and return the model."""
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = b"rows", 0
        signature.inputs, signature.outputs = [_port(b"inputs", self.input)], [_port(b"probabilities", output)]
        self._graph.inputs, self._graph.outputs = [self.input], [output]
        self.model.signatureDefs = [signature]
        return self.model


def dense_model(shape: tuple[int, ...] = (4, 4, 1), n_classes: int = 3, dtype: str = "uint8", seed: int = 0) -> Any:
    """Make a model with a dense layer and softmax on the flattened input."""
    rng, size = np.random.default_rng(seed), int(np.prod(shape))
    builder = GraphBuilder(shape, dtype)
    numbers = builder.input if dtype == "float32" else builder.cast(builder.input, "numbers", FLOAT32, shape)
    flat_shape = builder.constant("flat_shape", np.array([-1, size], np.int32))
    flat = builder.operator(OP.RESHAPE, [numbers, flat_shape], builder.tensor("flat", FLOAT32, (size,)))
    weights = builder.constant("weights", rng.normal(0, 0.001, (n_classes, size)).astype(np.float32))
    bias = builder.constant("bias", np.zeros(n_classes, np.float32))
    dense = builder.operator(
        OP.FULLY_CONNECTED,
        [flat, weights, bias],
        builder.tensor("dense", FLOAT32, (n_classes,)),
        schema.FullyConnectedOptionsT(),
    )
    softmax = schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    return builder.finish(
        builder.operator(OP.SOFTMAX, [dense], builder.tensor("probabilities", FLOAT32, (n_classes,)), softmax)
    )


def lookup_model(table: np.ndarray, shape: tuple[int, ...] = (4, 4, 1)) -> Any:
    """Make a model for uint8 inputs that gives the row of `table` (256, k) float32 of an input's first element."""
    builder = GraphBuilder(shape, "uint8")
    size = int(np.prod(shape))
    numbers = builder.cast(builder.input, "numbers", INT32, shape)
    flat_shape = builder.constant("flat_shape", np.array([-1, size], np.int32))
    flat = builder.operator(OP.RESHAPE, [numbers, flat_shape], builder.tensor("flat", INT32, (size,)))
    slice_options = schema.StridedSliceOptionsT()
    slice_options.beginMask, slice_options.endMask, slice_options.shrinkAxisMask = 1, 1, 2
    corners = [
        builder.constant(name, np.array(values, np.int32))
        for name, values in (("begin", [0, 0]), ("end", [0, 1]), ("strides", [1, 1]))
    ]
    first = builder.operator(OP.STRIDED_SLICE, [flat, *corners], builder.tensor("first", INT32, ()), slice_options)
    rows = builder.constant("table", table)
    return builder.finish(
        builder.operator(
            OP.GATHER,
            [rows, first],
            builder.tensor("probabilities", FLOAT32, table.shape[1:]),
            schema.GatherOptionsT(),
        )
    )


def fake_model() -> bytes:
    """Make `fake_predict` as a model.tflite for uint8 inputs of shape (4, 4, 1): the same bits, in the interpreter."""
    return pack(lookup_model(fake_predict(np.arange(256, dtype=np.uint8)[:, None])))


def pack(model: Any) -> bytes:
    """Write a model as the bytes of a model.tflite."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _port(name: bytes, tensor: int) -> Any:
    made = schema.TensorMapT()
    made.name, made.tensorIndex = name, tensor
    return made
