"""Try a model in a separate process with limits on memory and time, so that a forged model harms only that process.

    check the structure of the file -> start the interpreter -> predict one row, and as many as a call takes

The process imports only numpy and the interpreter. It runs once for each model that a worker loads.
"""

import contextlib
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bundle import BundleError
from bundle.inference.signature import ROWS, Signature
from bundle.messages import one_line

MEMORY_BYTES = 4 * 2**30  # of address space; the shipped models need 0.3 GiB
LOOK_SECONDS = 0.5
SECONDS = 60  # of processor time; the limit of the wall-clock time is twice as much


def never() -> bool:
    """Return False: nobody stops this."""
    return False


def try_model(content: bytes, signature: Signature, stopped: Callable[[], bool] = never) -> None:
    """Try the bytes of a model.tflite. Raises BundleError, which says what is wrong.

    stopped: asked every LOOK_SECONDS; when it returns True, the trial ends with a BundleError.
    """
    arguments = json.dumps(dataclasses.asdict(signature))
    command = [sys.executable, "-I", "-m", "bundle.inference.trial", arguments]
    with (
        _in_memory(content) as file,
        subprocess.Popen(
            command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path("/")
        ) as process,
    ):
        try:
            said = _wait(process, stopped)
        finally:
            process.kill()  # does nothing after the end
    if process.returncode == -signal.SIGKILL:
        limits = f"there was too little memory, or it took more than {SECONDS} s of processor time"
        raise BundleError(f"the trial of model.tflite was killed, because {limits}; it is refused")
    if process.returncode < 0:
        raise BundleError(f"the trial of model.tflite ended by signal {-process.returncode}; it is refused")
    if process.returncode:
        raise BundleError(said.decode(errors="replace").strip() or "the trial of model.tflite failed")


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    """Give a file in memory, at its beginning. With a pipe, a second `communicate` would not send the rest."""
    file = os.memfd_create("model.tflite")
    try:
        with os.fdopen(os.dup(file), "wb") as writer:
            writer.write(content)
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)


def _wait(process: "subprocess.Popen[bytes]", stopped: Callable[[], bool]) -> bytes:
    """Wait for the answer of the process. Raises BundleError after 2 * SECONDS or a stop."""
    deadline = time.monotonic() + 2 * SECONDS
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=LOOK_SECONDS)[0]
        if stopped():
            raise BundleError("the trial of model.tflite was stopped")
        if time.monotonic() > deadline:
            raise BundleError(f"the trial of model.tflite took more than {2 * SECONDS} s; it is refused")


def main() -> None:
    """Read a model from stdin and try it. If it is refused, print one sentence and exit with 1."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # in a container without enough memory, the kernel ends this process first
        Path("/proc/self/oom_score_adj").write_text("1000")
    given = json.loads(sys.argv[1])
    signature = Signature(given["dtype"], tuple(given["shape"]), given["n_classes"])
    try:
        _try(sys.stdin.buffer.read(), signature)
    except BundleError as error:
        sys.exit(_refuse(str(error)))
    except MemoryError:
        sys.exit(_refuse(f"model.tflite needs more than {MEMORY_BYTES} bytes of memory; it is refused"))
    except Exception as error:  # the interpreter raises RuntimeError and ValueError
        found = f"{signature.dtype} of shape {signature.shape}: {one_line(error)}"
        sys.exit(_refuse(f"model.tflite cannot predict {found}; it is refused, train the model again"))


def _refuse(sentence: str) -> int:
    sys.stdout.write(sentence)
    return 1


def _try(content: bytes, signature: Signature) -> None:
    import numpy as np

    from bundle.inference.model import Model
    from bundle.inference.structure import check_structure

    check_structure(content, signature)
    model = Model(content, signature)
    for rows in (1, ROWS):
        model.predict(np.zeros((rows, *signature.shape), signature.dtype))


if __name__ == "__main__":
    main()
