"""Train an experiment and publish the bundle: the story from top to bottom.

arrays -> model -> fit, the best epoch kept -> model.h5 staged -> judged on the test set through that very file ->
published by one rename. Whatever stops it on the way leaves no bundle. `promotion` decides later which is proposed.
"""

import json
import logging
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bundle import BundleError
from bundle.manifest import (
    DIFF_FILE,
    HOLDOUT_FILE,
    MODEL_FILE,
    PREDICTIONS_FILE,
    SPLIT_FILE,
    VOCABULARY_FILE,
    Manifest,
    Metrics,
)
from bundle.model import BATCH_SIZE, predict_probabilities, start_keras
from bundle.publish import bundle_path, publish, staging
from bundle.verify import Bundle, check_h5, open_bundle
from pyml import PymlError, one_line
from pyml.config import Settings
from pyml.dataset import Dataset, Split, save_split
from pyml.experiment import EarlyStopping, Experiment, check_fits
from pyml.feed import feed
from pyml.history import Epoch, add_auroc, make_recorder, write_history
from pyml.metrics import Probabilities, evaluate, write_predictions
from pyml.model import build_model
from pyml.plots import draw_plots
from pyml.process import seed_everything
from pyml.progress import epoch_progress
from pyml.provenance import bundle_id, git_changes, git_state, machine, next_run, published_runs, versions
from pyml.samples import save_npz
from pyml.source import Shelf
from pyml.tracking import Tracker, tracking
from pyml.verdict import warn

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

VALIDATION_BATCH = 256  # samples; gradients are not needed, so more fit than in training


@dataclass(frozen=True)
class Fit:
    """How a training went; epochs count from 1."""

    best_epoch: int
    epochs: int
    seconds: float
    history: list[Epoch]


def check_experiments(experiments: Sequence[Experiment], settings: Settings, shelf: Shelf) -> None:
    """Refuse, before anything is trained, what could not be trained to its end: data, layers, loss, optimizer, file.

    Raises PymlError or BundleError. What is published already is not looked at again.
    """
    for experiment in experiments:
        dataset = take_fitting(experiment, shelf)
        if not published_runs(settings.models, bundle_id(experiment, dataset.fingerprint)):
            start_keras()
            with tempfile.TemporaryDirectory() as directory:
                save_and_load(build_model(experiment, dataset), Path(directory) / MODEL_FILE, experiment, dataset)


def take_fitting(experiment: Experiment, shelf: Shelf) -> Dataset:
    """Load the experiment's data set. Raises PymlError when the experiment does not fit it."""
    dataset = shelf.take(experiment.data)
    check_fits(experiment, len(dataset.classes), dataset.input.dtype, dataset.n_words)
    return dataset


def train(
    experiment: Experiment, settings: Settings, force: bool = False, shelf: Shelf | None = None
) -> tuple[Bundle, bool]:
    """Train and publish, or find it published; return the bundle and whether it was trained now.

    The same experiment on the same data with the same code is trained once. With force it is trained anew and published
    beside the others, as `<id>-run2`, `<id>-run3`, ...; then the newest of them is what an unforced call finds. Raises
    PymlError or BundleError; then nothing was published.
    """
    dataset = take_fitting(experiment, shelf or Shelf(settings))
    identity = bundle_id(experiment, dataset.fingerprint)
    published = published_runs(settings.models, identity)
    if published and not force:
        bundle = open_bundle(bundle_path(settings.models, published[-1]))
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
    seed_everything(experiment.seed, experiment.deterministic)
    model = build_model(experiment, dataset)
    git, changes = git_state(settings), git_changes(settings)
    config = {
        **experiment.model_dump(mode="json"),
        **{"bundle_id": name, "data_sha256": dataset.fingerprint, "classes": list(dataset.classes)},
        **{"parameters": model.count_params(), "git_dirty": git.dirty, "versions": dict(versions())},
        "samples": {
            "train": len(dataset.train.y),
            "validation": len(dataset.validation.y),
            "test": len(dataset.test.y),
        },
    }
    with tracking(name, config, git.commit, settings) as tracker:
        log.info("training %s: %s parameters, at most %d epochs", name, f"{model.count_params():,}", experiment.epochs)
        fit = fit_model(model, experiment, dataset, tracker)
        saved = save_and_load(model, staged / MODEL_FILE, experiment, dataset)
        probabilities = _predict(saved, dataset.test, len(dataset.classes))
        if not np.isfinite(probabilities).all():
            n = int((~np.isfinite(probabilities)).any(axis=1).sum())
            raise PymlError(
                f"experiment {experiment.name}: the model gives no number for {n} test samples; look for extreme values"
            )
        metrics = evaluate(probabilities, dataset.test.y)
        write_predictions(staged / PREDICTIONS_FILE, probabilities, dataset.test.y, dataset.classes)
        save_npz(staged / HOLDOUT_FILE, x=dataset.test.x, y=dataset.test.y)
        save_split(staged / SPLIT_FILE, dataset)
        write_history(staged, fit.history)
        _draw(staged, probabilities, dataset, metrics)
        if changes:
            (staged / DIFF_FILE).write_bytes(changes)
        if dataset.words:
            (staged / VOCABULARY_FILE).write_text(json.dumps(dataset.words, ensure_ascii=False), encoding="utf-8")
        manifest = Manifest(
            bundle_id=name,
            name=experiment.name,
            dataset=dataset.name,
            input=dataset.input,
            classes=dataset.classes,
            preprocessing=dataset.preprocessing,
            experiment=experiment.model_dump(mode="json"),
            data_sha256=dataset.fingerprint,
            test_sha256=dataset.test_sha256,
            metrics=metrics,
            best_epoch=fit.best_epoch,
            epochs_trained=fit.epochs,
            train_seconds=round(fit.seconds, 3),
            parameters=model.count_params(),
            seed=experiment.seed,
            git=git,
            versions=versions(),
            machine=machine(),
            tracked_run=tracker.record,
            created_at=datetime.now(UTC),
        )
        manifest = publish(staged, settings.models, manifest)
        log.info("published %s", bundle_path(settings.models, name))
        for warning in warn(manifest, fit.history, experiment):
            log.warning("%s: %s", name, warning)
        tracker.log_metrics(metrics, fit.best_epoch)
        tracker.log_bundle(bundle_path(settings.models, name), manifest)
    return manifest


def _draw(staged: Path, probabilities: Probabilities, dataset: Dataset, metrics: Metrics) -> None:
    try:
        draw_plots(staged, probabilities, dataset.test.y, metrics, dataset.classes)
    except Exception as error:  # a training is not lost for a picture
        log.warning("the pictures could not be drawn (%s); the bundle goes without", one_line(error))


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
        recorder = make_recorder()
        try:
            history = model.fit(
                feed(dataset.train, experiment.loss, n_classes, experiment.batch_size, experiment.seed),
                validation_data=feed(dataset.validation, experiment.loss, n_classes, VALIDATION_BATCH, None),
                epochs=experiment.epochs,
                shuffle=False,  # the feed does
                callbacks=[recorder, divergence, best, *progress, *tracker.callbacks()],
                verbose=0,
            )
        except PymlError:
            raise
        except Exception as error:  # what only shows with data in it: TensorFlow's own errors, memory
            raise PymlError(f"experiment {experiment.name}: training failed: {one_line(error)}") from error
    epochs, seconds = len(history.epoch), time.perf_counter() - started
    log.info("best epoch %d of %d by %s, %.1f s", best.best_epoch + 1, epochs, stopping.monitor, seconds)
    add_auroc(recorder, lambda: _predict(model, dataset.validation, n_classes), dataset.validation.y)
    return Fit(best.best_epoch + 1, epochs, seconds, recorder.epochs)


def save_and_load(model: "keras.Model", path: Path, experiment: Experiment, dataset: Dataset) -> "keras.Model":
    """Write model.h5 and load it as a reader will: what is published is what is judged.

    Raises BundleError when readers would refuse the file, and PymlError when it does not hold the model that was built:
    Keras's file format loses some arguments in silence, lists such as axis=[1, 2] among them.
    """
    import keras

    try:
        model.save(path, include_optimizer=False)
        check_h5(path)
        saved: keras.Model = keras.models.load_model(path, compile=False, safe_mode=True)
    except (BundleError, OSError):
        raise
    except Exception as error:  # Keras, h5py and HDF5 raise what they like
        raise PymlError(
            f"experiment {experiment.name}: the model cannot be kept in {path.name}: {one_line(error)}"
        ) from error
    some = Split(dataset.test.x[:BATCH_SIZE], dataset.test.y[:BATCH_SIZE])
    built, kept = (_predict(each, some, len(dataset.classes)) for each in (model, saved))
    if not np.allclose(built, kept, rtol=0, atol=1e-5, equal_nan=True):
        raise PymlError(
            f"experiment {experiment.name}: {path.name} gives other answers than the model that was built, for Keras's "
            "file loses an argument of one of its layers; write lists such as axis=[1, 2] in another way"
        )
    return saved


def _predict(model: "keras.Model", split: Split, n_classes: int) -> Probabilities:
    batches = (split.x[start : start + BATCH_SIZE] for start in range(0, len(split.x), BATCH_SIZE))
    return np.concatenate([predict_probabilities(model, batch, n_classes) for batch in batches])


def _refuse_divergence(epoch: int, logs: dict[str, float]) -> None:
    for figure, value in logs.items():
        if not math.isfinite(value):
            raise PymlError(f"training diverged in epoch {epoch + 1}: {figure} is {value}; lower the learning rate")
