"""Forged `model.tflite` files with a matching hash: each is refused with one sentence, in bounded memory and time.

The models are made without TensorFlow. `check_structure` reads a file in Python; `try_model` does that in a process of
its own, with limits, and then predicts there.
"""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from support.bundles import publish_bundle
from support.forged_bundles import slow_model
from support.tflite_models import FLOAT32, INT32, OP, GraphBuilder, dense_model, pack

from bundle import BundleError
from bundle.inference import trial
from bundle.inference.load import load_model, start_model
from bundle.inference.model import Model
from bundle.inference.signature import Signature
from bundle.inference.structure import StructureError, check_structure
from bundle.inference.trial import try_model
from bundle.manifest import MAX_BYTES, SERVING_FILE, InputSpec
from bundle.verify import Bundle, open_bundle

SIGNATURE = Signature("uint8", (4, 4, 1), 3)
GOOD = pack(dense_model())
REDUCE = schema.ReducerOptionsT()


def graph(model: Any) -> Any:
    return model.subgraphs[0]


def tensor(model: Any, name: str) -> Any:
    return next(one for one in graph(model).tensors if one.name == name.encode())


def custom_operator(model: Any) -> None:
    model.operatorCodes[1].builtinCode, model.operatorCodes[1].deprecatedBuiltinCode = OP.CUSTOM, OP.CUSTOM
    model.operatorCodes[1].customCode = b"FlexReadFile"


def operator(code: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.operatorCodes[1].builtinCode = code
        model.operatorCodes[1].deprecatedBuiltinCode = min(code, 127)

    return change


def external_buffer(model: Any) -> None:
    model.buffers[1].offset, model.buffers[1].size = 1 << 20, 64


def external_buffer_group(model: Any) -> None:
    group = schema.ExternalBufferGroupT()
    group.name = b"/etc/passwd"
    model.externalBufferGroups = [group]


def variable(model: Any) -> None:
    tensor(model, "weights").isVariable = True


def sparse(model: Any) -> None:
    tensor(model, "weights").sparsity = schema.SparsityParametersT()


def shape(name: str, wanted: list[int]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        tensor(model, name).shape = wanted

    return change


def string_tensor(model: Any) -> None:
    tensor(model, "flat").type = schema.TensorType.STRING


def buffer_number(model: Any) -> None:
    tensor(model, "flat").buffer = 1_000_000


def input_number(number: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        graph(model).operators[2].inputs = [number, *graph(model).operators[2].inputs[1:]]

    return change


def operator_number(model: Any) -> None:
    graph(model).operators[2].opcodeIndex = 4_000_000_000


def endless_loop(model: Any) -> None:
    operator(OP.WHILE)(model)
    options = schema.WhileOptionsT()
    options.condSubgraphIndex = options.bodySubgraphIndex = 0
    graph(model).operators[1].builtinOptionsType = schema.BuiltinOptions.WhileOptions
    graph(model).operators[1].builtinOptions = options


def loop_outside(model: Any) -> None:
    endless_loop(model)
    graph(model).operators[1].builtinOptions.bodySubgraphIndex = 7


def no_signature(model: Any) -> None:
    model.signatureDefs = []


def two_inputs(model: Any) -> None:
    model.signatureDefs[0].inputs = [*model.signatureDefs[0].inputs, *model.signatureDefs[0].outputs]


def signature_graph(model: Any) -> None:
    model.signatureDefs[0].subgraphIndex = 9


def custom_options(model: Any) -> None:
    graph(model).operators[1].customOptions = [1, 2, 3]


def metadata(model: Any) -> None:
    part = schema.MetadataT()
    part.name, part.buffer = b"TFLITE_METADATA", 0
    model.metadata = [part]


def no_graph(model: Any) -> None:
    model.subgraphs = []


def old_version(model: Any) -> None:
    model.version = 2


FORGED: dict[str, tuple[Callable[[Any], None], str]] = {
    "28_custom_operator": (custom_operator, "holds the custom operator FlexReadFile; only built-in ones are allowed"),
    "28_call_once": (operator(OP.CALL_ONCE), "holds the operator CALL_ONCE, which is not on the allow-list"),
    "28_read_variable": (operator(OP.READ_VARIABLE), "holds the operator READ_VARIABLE"),
    "28_hashtable": (operator(OP.HASHTABLE), "holds the operator HASHTABLE"),
    "28_unknown_operator": (operator(12345), "holds the operator an unknown one"),
    "28_custom_options": (custom_options, "holds operator RESHAPE with parts that are not allowed"),
    "29_external_buffer": (external_buffer, "keeps data outside of itself"),
    "29_external_buffer_group": (external_buffer_group, "keeps data outside of itself"),
    "29_metadata": (metadata, "holds metadata that TensorFlow's converter does not write"),
    "30_huge_tensor": (shape("dense", [1, 2_000_000_000]), "holds tensor dense of 8000000000 bytes"),
    "30_product_overflows": (shape("dense", [65536, 65536, 65536, 65536]), "holds tensor dense of"),
    "30_negative_size": (shape("dense", [-5, 3]), r"holds tensor dense of shape \[-5, 3\]"),
    "30_weights_too_short": (shape("weights", [3, 4096]), "holds 192 bytes for tensor weights, its shape"),
    "string_tensor": (string_tensor, "holds tensor flat of type 5, which is not allowed"),
    "variable": (variable, "holds tensor weights with parts that are not allowed"),
    "sparse": (sparse, "holds tensor weights with parts that are not allowed"),
    "buffer_number": (buffer_number, "refers from tensor flat to part 1000000 of"),
    "input_number": (input_number(99), "refers from FULLY_CONNECTED to part 99 of"),
    "negative_input_number": (input_number(-7), "refers from FULLY_CONNECTED to part -7 of"),
    "operator_number": (operator_number, "refers from an operator to part 4000000000 of"),
    "graph_that_calls_itself": (endless_loop, "holds a graph that calls itself"),
    "loop_outside_of_the_file": (loop_outside, "refers from a loop to part 7 of"),
    "no_signature": (no_signature, r"has the signatures \[\]"),
    "two_inputs": (two_inputs, "has a signature that does not consist of inputs and probabilities"),
    "signature_graph": (signature_graph, "refers from a signature to part 9 of"),
    "no_graph": (no_graph, "holds no graph of version 3"),
    "old_version": (old_version, "holds no graph of version 3"),
}


@pytest.mark.parametrize(("change", "said"), FORGED.values(), ids=FORGED.keys())
def test_28_to_30_a_forged_model_is_refused_by_its_structure(change: Callable[[Any], None], said: str) -> None:
    model = dense_model()
    change(model)
    with pytest.raises(StructureError, match=rf"^model\.tflite {said}[^\n]*; it is refused, train the model again$"):
        check_structure(pack(model), SIGNATURE)


def test_a_good_model_passes() -> None:
    check_structure(GOOD, SIGNATURE)
    try_model(GOOD, SIGNATURE)


@pytest.mark.parametrize(
    ("signature", "said"),
    [
        (Signature("float32", (4, 4, 1), 3), "float32 .* is needed"),
        (Signature("uint8", (4, 4, 2), 3), r"uint8 \[-1, 4, 4, 2\] is needed"),
        (Signature("uint8", (4, 4, 1), 4), r"float32 \[-1, 4\] is needed"),
    ],
    ids=["dtype", "shape", "classes"],
)
def test_30_a_model_with_another_signature_than_the_manifest_is_refused(signature: Signature, said: str) -> None:
    with pytest.raises(StructureError, match=said):
        check_structure(GOOD, signature)


@pytest.mark.parametrize("size", [0, 1, 4, 7, 8, 12, 40, 100, len(GOOD) // 2, len(GOOD) - 1])
def test_28_a_cut_off_model_is_refused(size: int) -> None:
    with pytest.raises(StructureError):
        check_structure(GOOD[:size], SIGNATURE)


@pytest.mark.parametrize("content", [GOOD + b"\0", GOOD + GOOD, b"\x89HDF" + GOOD[4:], b"\0" * 4096, b"\xff" * 4096])
def test_28_bytes_that_nothing_refers_to_are_refused(content: bytes) -> None:
    with pytest.raises(StructureError):
        check_structure(content, SIGNATURE)


def test_29_a_file_with_another_identifier_is_refused() -> None:
    builder = flatbuffers.Builder(1024)
    builder.Finish(dense_model().Pack(builder), file_identifier=b"TFL9")
    with pytest.raises(StructureError, match="overlap"):
        check_structure(bytes(builder.Output()), SIGNATURE)


def test_29_flipped_bits_are_refused_or_harmless() -> None:
    """Of files with flipped bits, those that pass still predict: (n, 3) float32. The trial process may not die."""
    rng, passed = random.Random(0), 0
    for _ in range(2_000):
        content = bytearray(GOOD)
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        try:
            check_structure(bytes(content), SIGNATURE)
        except BundleError:
            continue
        passed += 1
        if passed > 40:
            continue
        refused = ""
        try:
            try_model(bytes(content), SIGNATURE)
        except BundleError as error:
            refused = str(error)
        assert "signal" not in refused
        if refused:
            continue
        predicted = Model(bytes(content), SIGNATURE).predict(np.zeros((5, 4, 4, 1), np.uint8))
        assert predicted.shape == (5, 3)
        assert predicted.dtype == np.float32
    assert 100 < passed < 1_000  # most of the weights' bits may be flipped, and most of the others may not


def test_30_a_model_that_allocates_more_than_it_declares_is_refused() -> None:
    """The file declares small tensors, and the interpreter computes the real shape: 16 * 40,000 * 40,000 numbers."""
    model = dense_model()
    operator(OP.TILE)(model)
    multiples = tensor(model, "flat_shape")
    multiples.shape = [4]
    model.buffers[multiples.buffer].data = np.array([1, 40_000, 40_000, 1], np.int32).view(np.uint8)
    with pytest.raises(BundleError, match=r"the trial of model\.tflite was killed|cannot predict|needs more than"):
        try_model(pack(model), SIGNATURE)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", "the trial of model.tflite ended by signal 11; it is refused"),
        ("while True: pass", "the trial of model.tflite (was killed, because .* 2 s of processor|took more than 4 s)"),
        ("b'x' * (8 << 30)", "needs more than .* bytes of memory"),
        ("import time; time.sleep(99)", "the trial of model.tflite took more than 4 s; it is refused"),
    ],
    ids=["crash", "endless", "memory", "asleep"],
)
def test_30_a_model_that_harms_the_trial_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, said: str
) -> None:
    """The file's effect is simulated by code in the trial process; limits and outcome are the real ones."""
    program = tmp_path / "python"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom bundle.inference import structure, trial\ntrial.SECONDS = 2\n"
        f"def harm(content, signature):\n    {code}\nstructure.check_structure = harm\n"
        "sys.argv = sys.argv[3:]\ntrial.main()\n"
    )
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(trial, "SECONDS", 2)
    with pytest.raises(BundleError, match=said):
        try_model(GOOD, SIGNATURE)


def test_a_trial_that_starts_slowly_gets_the_whole_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The model is larger than a pipe holds. On a busy machine, the process starts after the first look at it."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nsleep 1\nexec {sys.executable} "$@"\n')
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(trial, "SECONDS", 5)
    with pytest.raises(BundleError, match="holds hidden, overlapping or unused parts"):
        try_model(bytes(1 << 20), SIGNATURE)
    try_model(GOOD, SIGNATURE)


def test_a_model_that_gives_other_rows_than_inputs_is_refused() -> None:
    """Its predictions would belong to other inputs. The structure is valid: the weights take the place of the input."""
    model = dense_model()
    weights = graph(model).operators[2].inputs[1]
    input_number(weights)(model)
    check_structure(pack(model), SIGNATURE)
    with pytest.raises(BundleError, match=r"^the model gives an output of shape \(3, 3\) for 1 inputs$"):
        try_model(pack(model), SIGNATURE)


def test_a_trial_ends_at_a_stop_of_the_service() -> None:
    """The model's parser alone needs half a minute."""
    began = time.monotonic()
    with pytest.raises(BundleError, match=r"^the trial of model\.tflite was stopped$"):
        try_model(slow_model(), SIGNATURE, lambda: True)
    assert time.monotonic() - began < 10


def test_28_a_forged_model_in_a_bundle_is_refused_with_its_path(tmp_path: Path) -> None:
    model = dense_model()
    custom_operator(model)
    bundle = publish_bundle(tmp_path, serving=pack(model))
    with pytest.raises(BundleError, match=r"toy/model\.tflite: model\.tflite holds the custom operator FlexReadFile"):
        load_model(bundle)


def test_30_a_too_large_model_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the worker would need as much memory as a forged file has bytes, and die of it again and again."""
    bundle = publish_bundle(tmp_path, serving=GOOD)
    monkeypatch.setitem(MAX_BYTES, SERVING_FILE, len(GOOD) - 1)
    monkeypatch.setattr(Bundle, "read", lambda *_: pytest.fail("the file was read"))
    with pytest.raises(BundleError, match=rf"model\.tflite has {len(GOOD)} bytes, at most {len(GOOD) - 1} are read"):
        open_bundle(bundle.path)


def test_30_a_too_large_model_is_refused_before_it_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundle.inference.load.MAX_MODEL_BYTES", len(GOOD) - 1)
    with pytest.raises(BundleError, match=rf"model\.tflite has {len(GOOD)} bytes, at most {len(GOOD) - 1} are served"):
        start_model(GOOD, InputSpec(dtype=SIGNATURE.dtype, shape=SIGNATURE.shape), SIGNATURE.n_classes)


def test_a_process_that_serves_a_model_needs_little_memory(tmp_path: Path) -> None:
    """In a process of its own, because the peak of the tests' process has other causes. VmHWM is in KiB."""
    publish_bundle(tmp_path, serving=GOOD)
    program = (
        "import numpy, pathlib, sys\nfrom bundle.inference.load import load_model\n"
        "from bundle.verify import open_bundle\n"
        "predict = load_model(open_bundle(pathlib.Path(sys.argv[1]))).predict\n"
        "assert predict(numpy.zeros((1000, 4, 4, 1), 'uint8')).shape == (1000, 3)\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "bundles/toy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 10_000 < int(done.stdout) < 120_000


def test_30_a_size_may_not_depend_on_the_values_of_an_input() -> None:
    """Zeros, as in the trial, need no memory in this model; an input of large numbers needs any amount of it."""
    builder = GraphBuilder((2,), "int32")
    axis = builder.constant("axis", np.array([0], np.int32))
    largest = builder.operator(OP.REDUCE_MAX, [builder.input, axis], builder.tensor("largest", INT32, ()), REDUCE)
    tiled = builder.operator(OP.TILE, [builder.input, largest], builder.tensor("tiled", INT32, (2,)))
    numbers = builder.cast(tiled, "numbers", FLOAT32, (2,))
    said = "holds operator TILE with a size that depends on the values of an input"
    with pytest.raises(StructureError, match=said):
        check_structure(pack(builder.finish(numbers)), Signature("int32", (2,), 2))
