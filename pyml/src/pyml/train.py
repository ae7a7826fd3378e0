"""Train an experiment and publish the bundle: the story from top to bottom.

arrays -> model -> fit, the best epoch kept -> model.h5 staged -> judged on the test set through that very file ->
published by one rename -> proposed as the data set's current model. Whatever stops it on the way leaves no bundle.
"""

import logging
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bundle.manifest import HOLDOUT_FILE, MODEL_FILE, PREDICTIONS_FILE, Manifest
from bundle.model import predict_probabilities, start_keras
from bundle.publish import bundle_path, point, publish, staging
from bundle.verify import Bundle, check_h5, open_bundle
from pyml import PymlError, one_line
from pyml.config import Settings
from pyml.dataset import Dataset, load_dataset
from pyml.experiment import EarlyStopping, Experiment, check_fits
from pyml.metrics import evaluate, write_predictions
from pyml.model import build_model, encode_labels
from pyml.process import seed_everything
from pyml.progress import epoch_progress
from pyml.provenance import bundle_id, git_state, next_run, published_runs, versions
from pyml.tracking import Tracker, tracking

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """How a training went; epochs count from 1."""

    best_epoch: int
    epochs: int
    seconds: float


def train(experiment: Experiment, settings: Settings, force: bool = False) -> tuple[Bundle, bool]:
    """Train and publish, or find it published; return the bundle and whether it was trained now.

    The same experiment on the same data with the same code is trained once: again, it only becomes current again. With
    force it is trained anew and published beside the others, as `<id>-run2`, `<id>-run3`, ...; then the newest of them
    is what an unforced call finds. Raises PymlError or BundleError; then nothing was published.
    """
    dataset = load_dataset(experiment.data)
    check_fits(experiment, len(dataset.classes), dataset.input.dtype)
    identity = bundle_id(experiment, dataset.fingerprint)
    published = published_runs(settings.models, identity)
    if published and not force:
        bundle = open_bundle(bundle_path(settings.models, published[-1]))
        point(settings.models, bundle.manifest)
        log.info("%s is published already, nothing trained", published[-1])
        return bundle, False
    name = next_run(published, identity)
    with staging(settings.models) as staged:
        manifest = _train_into(staged, name, experiment, dataset, settings)
    return Bundle(bundle_path(settings.models, name), manifest), True


def _train_into(staged: Path, name: str, experiment: Experiment, dataset: Dataset, settings: Settings) -> Manifest:
    log.info(
        "%s: %d samples to train on, %d to validate, %d to test; %s of shape %s, %d classes",
        *(dataset.name, len(dataset.train.y), len(dataset.validation.y), len(dataset.test.y)),
        *(dataset.input.dtype, dataset.input.shape, len(dataset.classes)),
    )
    start_keras()
    seed_everything(experiment.seed)
    model = build_model(experiment, dataset)
    config = {**experiment.model_dump(mode="json"), "bundle_id": name, "data_sha256": dataset.fingerprint}
    git = git_state(settings)
    with tracking(name, config, git.commit, settings) as tracker:
        log.info("training %s: %s parameters, at most %d epochs", name, f"{model.count_params():,}", experiment.epochs)
        fit = fit_model(model, experiment, dataset, tracker)
        model.save(staged / MODEL_FILE, include_optimizer=False)
        probabilities = predict_saved(staged / MODEL_FILE, dataset)
        metrics = evaluate(probabilities, dataset.test.y)
        write_predictions(staged / PREDICTIONS_FILE, probabilities, dataset.test.y, dataset.classes)
        np.savez_compressed(staged / HOLDOUT_FILE, x=dataset.test.x, y=dataset.test.y)
        manifest = Manifest(
            bundle_id=name,
            name=experiment.name,
            dataset=dataset.name,
            input=dataset.input,
            classes=dataset.classes,
            preprocessing=dataset.preprocessing,
            experiment=experiment.model_dump(mode="json"),
            data_sha256=dataset.fingerprint,
            metrics=metrics,
            best_epoch=fit.best_epoch,
            epochs_trained=fit.epochs,
            train_seconds=round(fit.seconds, 3),
            parameters=model.count_params(),
            seed=experiment.seed,
            git=git,
            versions=versions(),
            tracked_run=tracker.record,
            created_at=datetime.now(UTC),
        )
        manifest = publish(staged, settings.models, manifest)
        point(settings.models, manifest)
        log.info("published %s", bundle_path(settings.models, name))
        tracker.log_metrics(metrics, fit.best_epoch)
        tracker.log_bundle(bundle_path(settings.models, name), experiment.name)
    return manifest


def fit_model(model: "keras.Model", experiment: Experiment, dataset: Dataset, tracker: Tracker) -> Fit:
    """Fit the model and leave it with the weights of its best epoch on the validation set."""
    import keras

    # Without early stopping the patience never runs out; Keras then still restores the best epoch.
    stopping = experiment.early_stopping or EarlyStopping(patience=experiment.epochs)
    best = keras.callbacks.EarlyStopping(stopping.monitor, patience=stopping.patience, restore_best_weights=True)
    n_classes = len(dataset.classes)
    started = time.perf_counter()
    with epoch_progress(experiment.epochs) as progress:
        divergence = keras.callbacks.LambdaCallback(on_epoch_end=_refuse_divergence)
        try:
            history = model.fit(
                dataset.train.x,
                encode_labels(dataset.train.y, experiment.loss, n_classes),
                validation_data=(dataset.validation.x, encode_labels(dataset.validation.y, experiment.loss, n_classes)),
                epochs=experiment.epochs,
                batch_size=experiment.batch_size,
                callbacks=[divergence, best, *progress, *tracker.callbacks()],
                verbose=0,
            )
        except PymlError:
            raise
        except Exception as error:  # what only shows with data in it: TensorFlow's own errors, memory
            raise PymlError(f"experiment {experiment.name}: training failed: {one_line(error)}") from error
    epochs, seconds = len(history.epoch), time.perf_counter() - started
    log.info("best epoch %d of %d by %s, %.1f s", best.best_epoch + 1, epochs, stopping.monitor, seconds)
    return Fit(best.best_epoch + 1, epochs, seconds)


def predict_saved(path: Path, dataset: Dataset) -> "np.typing.NDArray[np.float32]":
    """Predict the test set, (n, n_classes), by the file as a reader will load it: what is published is what is judged.

    Raises BundleError when readers would refuse the file.
    """
    import keras

    check_h5(path)
    saved = keras.models.load_model(path, compile=False, safe_mode=True)
    return predict_probabilities(saved, dataset.test.x, len(dataset.classes))


def _refuse_divergence(epoch: int, logs: dict[str, float]) -> None:
    for figure, value in logs.items():
        if not math.isfinite(value):
            raise PymlError(f"training diverged in epoch {epoch + 1}: {figure} is {value}; lower the learning rate")
