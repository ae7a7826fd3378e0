"""The input pipeline of a training: batches of raw samples, shuffled again in each epoch.

Samples in memory and samples in a file give the same batches, so both train the same weights.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pyml.datasets.dataset import Split
from pyml.datasets.samples import StoredSamples
from pyml.experiment.experiment import Loss
from pyml.training.build_model import encode_labels

if TYPE_CHECKING:
    import tensorflow as tf

READ_AHEAD = 4  # batches that are prepared while the model uses another batch


def batches_of(
    split: Split, loss: Loss, n_classes: int, batch_size: int, shuffle_seed: int | None
) -> "tf.data.Dataset":
    """Give the batches of a split, with labels encoded for the loss. shuffle_seed None: in the order of the split."""
    import tensorflow as tf

    options = tf.data.Options()
    # This pipeline has nothing to tune. The tuning thread sleeps up to 5.12 s before it notices the end of an epoch,
    # and the next epoch would wait for it.
    options.autotune.enabled = False
    with tf.device("CPU:0"):  # keep the memory of the GPU for the model
        batches = _batches(split, encode_labels(split.y, loss, n_classes), batch_size, shuffle_seed)
    return batches.with_options(options)


def _batches(
    split: Split, encoded: npt.NDArray[np.generic], batch_size: int, shuffle_seed: int | None
) -> "tf.data.Dataset":
    import tensorflow as tf

    samples, labels = split.x, tf.constant(encoded)
    if isinstance(samples, StoredSamples):
        shape, dtype, stored = (None, *samples.shape[1:]), samples.dtype, samples

        def read(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
            return stored[rows]

        def batch(rows: "tf.Tensor") -> tuple["tf.Tensor", "tf.Tensor"]:
            return tf.ensure_shape(tf.numpy_function(read, [rows], tf.as_dtype(dtype)), shape), tf.gather(labels, rows)

    else:
        x = tf.constant(samples)

        def batch(rows: "tf.Tensor") -> tuple["tf.Tensor", "tf.Tensor"]:
            return tf.gather(x, rows), tf.gather(labels, rows)

    rows = tf.data.Dataset.range(len(split.y))
    if shuffle_seed is not None:
        rows = rows.shuffle(len(split.y), seed=shuffle_seed, reshuffle_each_iteration=True)
    return rows.batch(batch_size).map(batch).prefetch(READ_AHEAD)
