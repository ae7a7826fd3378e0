"""Make a training repeatable: the same seed gives the same weights on the same machine."""


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
