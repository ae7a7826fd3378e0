"""Fit a model on the training set, validate it after each epoch, keep the best epoch."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bundle.history import Epoch
from bundle.messages import one_line
from pyml import PymlError
from pyml.datasets.dataset import Dataset
from pyml.evaluation.history import add_auroc, make_recorder
from pyml.experiment.experiment import EarlyStopping, Experiment
from pyml.reports.progress import epoch_progress
from pyml.training.input_pipeline import batches_of
from pyml.training.model_file import predict_split

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

VALIDATION_BATCH = 256  # samples; without gradients more samples fit into memory than in a training batch


@dataclass(frozen=True)
class Fit:
    """The result of a training. Epochs count from 1."""

    best_epoch: int
    epochs: int
    seconds: float
    history: list[Epoch]


def fit_model(
    model: "keras.Model", experiment: Experiment, dataset: Dataset, callbacks: Sequence["keras.callbacks.Callback"]
) -> Fit:
    """Fit the model. Afterwards it has the weights of its best epoch on the validation set.

    callbacks: of the tracker. Raises PymlError if the training fails or diverges.
    """
    import keras

    # Without early stopping the patience is all epochs, so that Keras still restores the best epoch.
    stopping = experiment.early_stopping or EarlyStopping(patience=experiment.epochs)
    best = keras.callbacks.EarlyStopping(stopping.monitor, patience=stopping.patience, restore_best_weights=True)
    divergence = keras.callbacks.LambdaCallback(on_epoch_end=_check_finite)
    recorder = make_recorder()
    n_classes = len(dataset.classes)
    train = batches_of(dataset.train, experiment.loss, n_classes, experiment.batch_size, experiment.seed)
    validation = batches_of(dataset.validation, experiment.loss, n_classes, VALIDATION_BATCH, None)
    started = time.perf_counter()
    with epoch_progress(experiment.epochs) as progress:
        try:
            history = model.fit(
                train,
                validation_data=validation,
                epochs=experiment.epochs,
                shuffle=False,  # the input pipeline shuffles
                callbacks=[recorder, divergence, best, *progress, *callbacks],
                verbose=0,
            )
        except PymlError:
            raise
        except Exception as error:  # errors that need data: TensorFlow's own, and too little memory
            raise PymlError(f"training failed: {one_line(error)}") from error
    epochs, seconds = len(history.epoch), time.perf_counter() - started
    log.info("best epoch %d of %d by %s, %.1f s", best.best_epoch + 1, epochs, stopping.monitor, seconds)
    add_auroc(recorder, lambda: predict_split(model, dataset.validation, n_classes), dataset.validation.y)
    return Fit(best.best_epoch + 1, epochs, seconds, recorder.epochs)


def _check_finite(epoch: int, logs: dict[str, float]) -> None:
    for metric, value in logs.items():
        if not math.isfinite(value):
            raise PymlError(f"training diverged in epoch {epoch + 1}: {metric} is {value}; lower the learning rate")
