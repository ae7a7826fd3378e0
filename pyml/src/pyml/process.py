"""What the trainer sets for its whole process: the seeds, how a stop arrives, and how its own processes end."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: unwind like Ctrl-C, so that everything staged is removed on the way out."""


def seed_everything(seed: int, deterministic: bool = True) -> None:
    """Make the same seed give the same weights on the same machine: Python, numpy, Keras, TensorFlow's operations.

    What trained before in this process has no influence. Not deterministic is faster, above all on a GPU, and seeds
    everything all the same.
    """
    import keras
    import tensorflow as tf
    from tensorflow.python.framework.config import disable_op_determinism  # tf.config exports the other way only

    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    else:
        disable_op_determinism()


def raise_on_sigterm() -> None:
    """Turn SIGTERM into Terminated, raised wherever the main thread is."""
    signal.signal(signal.SIGTERM, _terminate)


def end_family(leader: int) -> None:
    """Kill a process group, and its leader's children outside it: W&B's service has a group of its own."""
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):  # absent on macOS, where the service ends by itself after a while
        with suppress(OSError):  # it has just ended
            if int(path.read_text().rpartition(")")[2].split()[1]) == leader:
                children.append(int(path.parent.name))
    for kill, process in (*((os.kill, child) for child in children), (os.killpg, leader)):  # the leader may be us
        with suppress(ProcessLookupError):
            kill(process, signal.SIGKILL)


def _terminate(_signum: int, _frame: FrameType | None) -> None:
    raise Terminated
