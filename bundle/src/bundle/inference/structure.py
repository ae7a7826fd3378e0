"""Check the structure of a `model.tflite`: only built-in operators, on tensors of limited size.

The interpreter is C++ and follows the offsets in the file. So Python, which cannot read outside of the file, reads it
first: parse the file, check it, write it again, compare. A file of TensorFlow's converter gives the same bytes again. A
file with hidden, overlapping or unused parts does not.

The file format: tensorflow/lite/schema/schema.fbs. A forged file can make this parser slow or let it need much memory.
So it runs only in the process of `bundle.inference.trial`, which has limits.
"""

import math
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from bundle import BundleError
from bundle.inference.signature import ANY_ROWS, FIXED_ROWS, INPUT, OUTPUT, ROWS, Signature

IDENTIFIER = b"TFL3"
# A tensor may have this many times the bytes of its inputs, plus the size of the file. Real layers need less: 512
# filters on a grey uint8 image need 2,048 times.
MAX_GROWTH = 4096
OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
# The operators to which the allowed layers are converted (pyml/experiment/layers.py; tests/training/test_layers.py).
ALLOWED_OPERATORS = frozenset(
    "ABS ADD AVERAGE_POOL_2D BATCH_TO_SPACE_ND CAST CONCATENATION CONV_2D CONV_3D DEPTHWISE_CONV_2D DIV ELU EXP "
    "EXPAND_DIMS FULLY_CONNECTED GATHER GELU GREATER HARD_SWISH LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND "
    "LOGISTIC LOG_SOFTMAX MAX_POOL_2D MEAN MINIMUM MUL NEG NOT_EQUAL PACK PAD PRELU REDUCE_ANY REDUCE_MAX RELU "
    "RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 RSQRT SELECT SELECT_V2 SHAPE SLICE SOFTMAX "
    "SPACE_TO_BATCH_ND SPLIT SQRT SQUARE SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TILE TRANSPOSE "
    "TRANSPOSE_CONV WHILE ZEROS_LIKE".split()
)
# Inputs of operators that set the size of their output. They may depend on the shape of the model's input, not on its
# values: otherwise one input could need any amount of memory.
SIZE_INPUTS = {
    "TILE": (1,),
    "PAD": (1,),
    "RESIZE_BILINEAR": (1,),
    "RESIZE_NEAREST_NEIGHBOR": (1,),
    "TRANSPOSE_CONV": (0,),
    "SPACE_TO_BATCH_ND": (1, 2),
    "BATCH_TO_SPACE_ND": (1, 2),
}
DTYPES: dict[int, np.dtype[Any]] = {
    schema.TensorType.FLOAT32: np.dtype(np.float32),
    schema.TensorType.INT32: np.dtype(np.int32),
    schema.TensorType.UINT8: np.dtype(np.uint8),
    schema.TensorType.BOOL: np.dtype(np.bool_),
}
METADATA = {b"min_runtime_version", b"CONVERSION_METADATA"}  # the converter writes both


class StructureError(BundleError):
    """A model.tflite has a forbidden structure; str() names the forbidden part."""

    def __init__(self, found: str) -> None:
        """Make the whole sentence from the forbidden part."""
        super().__init__(f"model.tflite {found}; it is refused, train the model again")


def check_structure(content: bytes, signature: Signature) -> None:
    """Check the bytes of a model.tflite against the model's signature. Raises StructureError.

    A forged file may need any amount of time and memory: call it in a process with limits.
    """
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        builder = flatbuffers.Builder(len(content) + 1024)
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
        written = bytes(builder.Output())
    except MemoryError:
        raise
    except Exception as error:  # the parser raises errors of many kinds
        raise StructureError(f"is not a readable model ({type(error).__name__})") from error
    if written != content:
        raise StructureError("holds hidden, overlapping or unused parts")
    _check_file(model)
    for graph in model.subgraphs:
        for tensor in graph.tensors or ():
            _check_tensor(tensor, model, signature, len(content))
        for operator in graph.operators or ():
            _check_operator(operator, graph, model)
        _check_sizes(graph, model)
    _check_calls(model)
    _check_signatures(model, signature)


def _check_file(model: Any) -> None:
    if model.version != 3 or not model.subgraphs or not model.buffers:
        raise StructureError("holds no graph of version 3")
    if model.externalBufferGroups or model.externalBuffers or any(part.offset or part.size for part in model.buffers):
        raise StructureError("keeps data outside of itself; only data in the file is allowed")
    if model.metadataBuffer is not None or {part.name for part in model.metadata or ()} - METADATA:
        raise StructureError("holds metadata that TensorFlow's converter does not write")
    for part in model.metadata or ():
        _check_index(part.buffer, model.buffers, "metadata")
    for code in model.operatorCodes or ():
        name = OPERATORS.get(max(code.builtinCode, code.deprecatedBuiltinCode), "an unknown one")
        if code.customCode is not None:
            raise StructureError(f"holds the custom operator {_text(code.customCode)}; only built-in ones are allowed")
        if name not in ALLOWED_OPERATORS:
            raise StructureError(f"holds the operator {name}, which is not on the allow-list")


def _check_tensor(tensor: Any, model: Any, signature: Signature, file_bytes: int) -> None:
    name = _text(tensor.name)
    if tensor.type not in DTYPES:
        raise StructureError(f"holds tensor {name} of type {tensor.type}, which is not allowed")
    if tensor.sparsity is not None or tensor.variantTensors or tensor.externalBuffer or tensor.isVariable:
        raise StructureError(f"holds tensor {name} with parts that are not allowed")
    shape = [int(size) for size in _list(tensor.shape)]
    if any(size < 0 for size in shape):
        raise StructureError(f"holds tensor {name} of shape {shape}")
    _check_index(tensor.buffer, model.buffers, f"tensor {name}")
    n_bytes = math.prod(shape) * DTYPES[tensor.type].itemsize
    data = model.buffers[tensor.buffer].data
    if data is not None and len(data) != n_bytes:
        raise StructureError(f"holds {len(data)} bytes for tensor {name}, its shape {shape} needs {n_bytes}")
    # The converter uses float32 for each dtype of the input.
    limit = ROWS * MAX_GROWTH * 4 * math.prod(signature.shape) + file_bytes
    if data is None and n_bytes > limit:
        raise StructureError(f"holds tensor {name} of {n_bytes} bytes, an input of this size allows {limit}")


def _check_operator(operator: Any, graph: Any, model: Any) -> None:
    codes, tensors = _list(model.operatorCodes), _list(graph.tensors)
    _check_index(operator.opcodeIndex, codes, "an operator")
    name = _operator_name(operator, model)
    for index in _list(operator.inputs):
        if index != -1:  # an optional input that is absent
            _check_index(index, tensors, name)
    for index in _list(operator.outputs):
        _check_index(index, tensors, name)
    odd = (
        operator.customOptions is not None
        or operator.largeCustomOptionsOffset
        or operator.largeCustomOptionsSize
        or operator.builtinOptions2 is not None
        or len(_list(operator.intermediates))
        or any(_list(operator.mutatingVariableInputs))
    )
    if odd:
        raise StructureError(f"holds operator {name} with parts that are not allowed")


def _check_sizes(graph: Any, model: Any) -> None:
    """Check that no size depends on the values of the graph's inputs. The operators are in the order of their run."""
    values = set(_list(graph.inputs))
    for operator in _list(graph.operators):
        name = _operator_name(operator, model)
        inputs = _list(operator.inputs)
        for place in SIZE_INPUTS.get(name, ()):
            if place < len(inputs) and inputs[place] in values:
                raise StructureError(f"holds operator {name} with a size that depends on the values of an input")
        if name != "SHAPE" and values.intersection(inputs):
            values.update(_list(operator.outputs))


def _operator_name(operator: Any, model: Any) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    name: str = OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]
    return name


def _check_calls(model: Any) -> None:
    """Check the loops: each calls graphs of the file, and none calls itself, directly or through others."""
    calls: dict[int, list[int]] = {}
    for number, graph in enumerate(model.subgraphs):
        calls[number] = []
        for operator in _list(graph.operators):
            if isinstance(operator.builtinOptions, schema.WhileOptionsT):
                options = operator.builtinOptions
                for index in (options.condSubgraphIndex, options.bodySubgraphIndex):
                    _check_index(index, model.subgraphs, "a loop")
                    calls[number].append(index)
    try:
        TopologicalSorter(calls).prepare()
    except CycleError as error:
        raise StructureError("holds a graph that calls itself") from error


def _check_signatures(model: Any, signature: Signature) -> None:
    found = {_text(one.signatureKey): one for one in _list(model.signatureDefs)}
    wanted = next((rows for rows in (ANY_ROWS, FIXED_ROWS) if rows.keys() == found.keys()), None)
    if wanted is None:
        raise StructureError(
            f"has the signatures {sorted(found)}, {sorted(ANY_ROWS)} or {sorted(FIXED_ROWS)} is needed"
        )
    widths = {signature.n_classes, 1} if signature.n_classes == 2 else {signature.n_classes}
    for key, rows in wanted.items():
        _check_index(found[key].subgraphIndex, model.subgraphs, "a signature")
        graph = model.subgraphs[found[key].subgraphIndex]
        taken = _port(found[key].inputs, graph.inputs, graph, INPUT)
        given = _port(found[key].outputs, graph.outputs, graph, OUTPUT)
        if taken != (np.dtype(signature.dtype), [rows, *signature.shape]):
            raise StructureError(f"takes {taken}, {signature.dtype} {[rows, *signature.shape]} is needed")
        if given not in [(np.dtype(np.float32), [rows, width]) for width in widths]:
            raise StructureError(f"gives {given}, float32 {[rows, signature.n_classes]} is needed")


def _port(maps: Any, indices: Any, graph: Any, name: str) -> tuple[np.dtype[Any], list[int]]:
    """Return dtype and shape of the only input or output of a graph. -1 stands for any number of rows."""
    maps, indices = _list(maps), _list(indices)
    if [_text(one.name) for one in maps] != [name] or [one.tensorIndex for one in maps] != list(indices):
        raise StructureError(f"has a signature that does not consist of {INPUT} and {OUTPUT}")
    _check_index(indices[0], _list(graph.tensors), "a signature")
    tensor = graph.tensors[indices[0]]
    shape = tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature
    return DTYPES[tensor.type], [int(size) for size in _list(shape)]


def _check_index(index: int, parts: Sequence[object], of: str) -> None:
    if not 0 <= index < len(parts):
        raise StructureError(f"refers from {of} to part {index} of {len(parts)}")


def _list(value: Any) -> Any:
    """Return a vector of the file; an absent one is empty."""
    return () if value is None else value


def _text(value: bytes | None) -> str:
    return " ".join((value or b"").decode(errors="replace").split())[:80]
