"""Make a training repeatable."""


def seed_everything(seed: int, deterministic: bool = True) -> None:
    """Seed Python, numpy, Keras and TensorFlow, so that the same seed gives the same weights on the same machine.

    Earlier trainings in the same process have no influence. deterministic=False is faster, most of all on a GPU:
    everything is still seeded, but TensorFlow can use operations whose results are not repeatable.
    """
    import keras
    import tensorflow as tf
    from tensorflow.python.framework.config import (
        disable_op_determinism,
    )  # tf.config exports only the opposite function

    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    else:
        disable_op_determinism()
