"""Predict with a `model.tflite` in the LiteRT interpreter. The trainer's metrics and the service use the same code.

A row gets the same bits for every number of rows, threads and workers.
"""

import os
import queue
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from bundle import BundleError
from bundle.inference.signature import FIXED_ROWS, INPUT, OUTPUT, ROWS, Signature
from bundle.quiet import without_stderr

Array = npt.NDArray[np.generic]
Probabilities = npt.NDArray[np.float32]

MAX_CALLS = 8  # calls at the same time; each has its own interpreter, with its own memory
GREETING = (b"XNNPACK delegate",)


class Model:
    """A model that predicts. Its methods may be called by several threads at once."""

    def __init__(self, content: bytes, signature: Signature) -> None:
        """Start an interpreter with the bytes of a model.tflite that has passed `trial`."""
        self._content = content
        self._signature = signature
        self._idle: queue.LifoQueue[_Interpreter] = queue.LifoQueue()
        first = _Interpreter(content)
        self.rows = first.rows
        self._idle.put(first)

    def predict(self, arrays: Array) -> Probabilities:
        """Predict class probabilities.

        arrays: (n, ...) as the signature says, raw. Returns (n, n_classes) float32; a single sigmoid p becomes
        (1 - p, p). Raises BundleError when the model's output has another number of rows or another width, and
        RuntimeError or ValueError when the interpreter fails.
        """
        parts = [arrays[start : start + ROWS] for start in range(0, len(arrays), ROWS)]
        # For a single call, a thread costs more time than it saves.
        found = [self._call(parts[0])] if len(parts) == 1 else list(_threads().map(self._call, parts))
        return as_probabilities(np.concatenate(found), self._signature.n_classes)

    def _call(self, part: Array) -> Array:
        try:
            interpreter = self._idle.get_nowait()
        except queue.Empty:
            interpreter = _Interpreter(self._content)
        try:
            output = interpreter.call(part)
        finally:
            self._idle.put(interpreter)
        if output.shape[:1] != (len(part),):
            raise BundleError(f"the model gives an output of shape {output.shape} for {len(part)} inputs")
        return output


class _Interpreter:
    """One interpreter, for one call at a time."""

    def __init__(self, content: bytes) -> None:
        with without_stderr(GREETING):
            interpreter = Interpreter(model_content=content, num_threads=1)
            interpreter.allocate_tensors()
        names = interpreter.get_signature_list()
        self.rows = tuple(FIXED_ROWS.values()) if FIXED_ROWS.keys() <= names.keys() else None
        self._runners = {name: interpreter.get_signature_runner(name) for name in names}

    def call(self, part: Array) -> Array:
        """Predict at most ROWS rows (n, ...). If the numbers of rows are fixed, fill up with rows of zeros."""
        if self.rows is None:
            return self._run("rows", part)
        if len(part) == 1:
            return self._run("rows_1", part)
        padded = np.zeros((ROWS, *part.shape[1:]), part.dtype)
        padded[: len(part)] = part
        return self._run("rows_64", padded)[: len(part)]

    def _run(self, name: str, part: Array) -> Array:
        output: Array = self._runners[name](**{INPUT: np.ascontiguousarray(part)})[OUTPUT]
        return output


def as_probabilities(outputs: Array, n_classes: int) -> Probabilities:
    """Turn a model's outputs (n, k) into probabilities (n, n_classes) float32. Raises BundleError for another width."""
    found = outputs.astype(np.float32, copy=False)
    if n_classes == 2 and found.shape[1:] == (1,):
        found = np.hstack([1 - found, found])
    if found.shape != (len(outputs), n_classes):
        raise BundleError(
            f"the model gives shape {outputs.shape[1:]} per input, {n_classes} classes need ({n_classes},)"
        )
    return found


@cache
def _threads() -> ThreadPoolExecutor:
    """Return the threads that all models share: one for each processor of this process."""
    return ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), MAX_CALLS), "predict")
