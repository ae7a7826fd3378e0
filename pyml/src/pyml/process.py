"""What the trainer sets for its whole process: the seeds, and how a stop arrives."""

import signal
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: unwind like Ctrl-C, so that everything staged is removed on the way out."""


def seed_everything(seed: int) -> None:
    """Make the same seed give the same weights on the same machine: Python, numpy, Keras, TensorFlow's operations."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def raise_on_sigterm() -> None:
    """Turn SIGTERM into Terminated, raised wherever the main thread is."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(_signum: int, _frame: FrameType | None) -> None:
    raise Terminated
