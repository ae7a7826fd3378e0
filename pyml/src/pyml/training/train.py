"""Train an experiment and publish the bundle.

    dataset -> model -> fit (keep the best epoch) -> stage (write model.h5 and model.tflite, measure model.tflite on the
    test set) -> publish (one rename)

A training that is stopped or fails leaves no bundle. `promotion` decides later which bundle is proposed.
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import JsonValue

from bundle import BundleError
from bundle.manifest import (
    DIFF_FILE,
    PREDICTIONS_FILE,
    SPLIT_FILE,
    TEST_SET_FILE,
    VOCABULARY_FILE,
    Manifest,
    Metrics,
    Serving,
)
from bundle.messages import one_line
from bundle.publish import bundle_path, publish, staging
from bundle.verify import Bundle, open_bundle
from bundle.vocabulary import encode_vocabulary
from pyml import PymlError
from pyml.config import Settings
from pyml.datasets.dataset import Dataset, Split, save_split
from pyml.datasets.load import DatasetCache
from pyml.datasets.samples import save_npz
from pyml.evaluation.history import write_history
from pyml.evaluation.metrics import Probabilities, evaluate, write_predictions
from pyml.experiment.experiment import Experiment, check_fits
from pyml.keras_library import start_keras
from pyml.promotion.diagnosis import warn
from pyml.provenance import git_changes, git_state, machine, versions
from pyml.reports.plots import draw_plots
from pyml.tracking.tracker import tracking
from pyml.training.build_model import build_model
from pyml.training.bundle_id import bundle_id, next_run, published_runs
from pyml.training.fit import Fit, fit_model
from pyml.training.model_file import BATCH_SIZE, write_model
from pyml.training.seed import seed_everything

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)


def check_experiments(experiments: Sequence[Experiment], settings: Settings, datasets: DatasetCache) -> None:
    """Check data, layers, loss, optimizer and model file of all experiments before the first training.

    Experiments that are published already are not checked. Raises PymlError or BundleError.
    """
    for experiment in experiments:
        with _name_errors(experiment):
            dataset = _load_dataset(experiment, datasets)
            if not published_runs(settings.models, bundle_id(experiment, dataset.fingerprint)):
                start_keras()
                some = Split(dataset.test.x[:BATCH_SIZE], dataset.test.y[:BATCH_SIZE])
                with tempfile.TemporaryDirectory() as directory:
                    write_model(build_model(experiment, dataset), Path(directory), dataset, some)


def train(
    experiment: Experiment, settings: Settings, *, force: bool = False, datasets: DatasetCache | None = None
) -> tuple[Bundle, bool]:
    """Train an experiment and publish its bundle, or find the published one. Return the bundle and whether it is new.

    The same experiment with the same data and code is trained once. With force it is trained again and published as
    `<id>-run2`, `<id>-run3`, ...; a later call without force finds the newest run. Raises PymlError or BundleError;
    then nothing was published.
    """
    with _name_errors(experiment):
        dataset = _load_dataset(experiment, datasets or DatasetCache(settings))
        identity = bundle_id(experiment, dataset.fingerprint)
        published = published_runs(settings.models, identity)
        if published and not force:
            try:
                bundle = open_bundle(bundle_path(settings.models, published[-1]))
            except BundleError as error:
                raise BundleError(f"{error}; pyml train --force trains it again beside the damaged one") from error
            log.info("%s is published already, nothing trained", published[-1])
            return bundle, False
        name = next_run(published, identity)
        with staging(settings.models) as staged:
            manifest = _train_into(staged, name, experiment, dataset, settings)
        return Bundle(bundle_path(settings.models, name), manifest), True


@contextmanager
def _name_errors(experiment: Experiment) -> Iterator[None]:
    """Begin the message of every PymlError with the experiment's name."""
    try:
        yield
    except PymlError as error:
        raise PymlError(f"experiment {experiment.name}: {error}") from error


def _load_dataset(experiment: Experiment, datasets: DatasetCache) -> Dataset:
    """Load the experiment's dataset. Raises PymlError if the experiment does not fit it."""
    dataset = datasets.get(experiment.data)
    check_fits(experiment, len(dataset.classes), dataset.input.dtype, dataset.n_words)
    return dataset


def _train_into(staged: Path, name: str, experiment: Experiment, dataset: Dataset, settings: Settings) -> Manifest:
    log.info(
        "%s: %d samples for training, %d for validation, %d for the test; %s of shape %s, %d classes",
        dataset.name,
        len(dataset.train.y),
        len(dataset.validation.y),
        len(dataset.test.y),
        dataset.input.dtype,
        dataset.input.shape,
        len(dataset.classes),
    )
    start_keras()
    seed_everything(experiment.seed, experiment.deterministic)
    model = build_model(experiment, dataset)
    n_parameters = model.count_params()
    git, changes = git_state(settings), git_changes(settings)
    config = _tracked_config(name, experiment, dataset, n_parameters) | {"git_dirty": git.dirty}
    with tracking(name, config, git.commit, settings) as tracker:
        tracker.use_dataset(dataset)
        epochs = f"{'at most ' if experiment.early_stopping else ''}{experiment.epochs} epochs"
        log.info("training %s: %s parameters, %s", name, f"{n_parameters:,}", epochs)
        fit = fit_model(model, experiment, dataset, tracker.callbacks())
        metrics, serving = _stage(staged, model, fit, dataset)
        if changes:
            (staged / DIFF_FILE).write_bytes(changes)
        manifest = Manifest(
            bundle_id=name,
            name=experiment.name,
            dataset=dataset.name,
            input=dataset.input,
            classes=dataset.classes,
            preprocessing=dataset.preprocessing,
            serving=serving,
            experiment=experiment.model_dump(mode="json"),
            data_sha256=dataset.fingerprint,
            test_sha256=dataset.test_sha256,
            metrics=metrics,
            best_epoch=fit.best_epoch,
            epochs_trained=fit.epochs,
            train_seconds=round(fit.seconds, 3),
            parameters=n_parameters,
            seed=experiment.seed,
            git=git,
            versions=versions(),
            machine=machine(),
            tracked_run=tracker.record,
            created_at=datetime.now(UTC),
        )
        manifest = publish(staged, settings.models, manifest)
        log.info("published %s", bundle_path(settings.models, name))
        for warning in warn(manifest, fit.history, experiment.optimizer.learning_rate):
            log.warning("%s: %s", name, warning)
        tracker.log_metrics(metrics, fit.best_epoch)
        tracker.log_bundle(bundle_path(settings.models, name), manifest)
    return manifest


def _tracked_config(name: str, experiment: Experiment, dataset: Dataset, n_parameters: int) -> dict[str, JsonValue]:
    """Give the configuration of the tracked run: the experiment, its data, the versions."""
    return {
        **experiment.model_dump(mode="json"),
        "bundle_id": name,
        "data_sha256": dataset.fingerprint,
        "classes": list(dataset.classes),
        "parameters": n_parameters,
        "versions": dict(versions()),
        "samples": {
            "train": len(dataset.train.y),
            "validation": len(dataset.validation.y),
            "test": len(dataset.test.y),
        },
    }


def _stage(staged: Path, model: "keras.Model", fit: Fit, dataset: Dataset) -> tuple[Metrics, Serving]:
    """Write the bundle's files except the manifest. Give the metrics of model.tflite on the test set, and its rows.

    Raises PymlError if the files do not hold the model, or if a prediction is not a finite number.
    """
    served = write_model(model, staged, dataset, dataset.test)
    probabilities = served.probabilities
    n_odd = int((~np.isfinite(probabilities)).any(axis=1).sum())
    if n_odd:
        raise PymlError(f"the model predicts no finite number for {n_odd} test samples; look for extreme values")
    metrics = evaluate(probabilities, dataset.test.y)
    write_predictions(staged / PREDICTIONS_FILE, probabilities, dataset.test.y, dataset.classes)
    save_npz(staged / TEST_SET_FILE, x=dataset.test.x, y=dataset.test.y)
    save_split(staged / SPLIT_FILE, dataset)
    write_history(staged, fit.history)
    _draw(staged, probabilities, dataset, metrics)
    if dataset.words:
        (staged / VOCABULARY_FILE).write_bytes(encode_vocabulary(dataset.words))
    return metrics, served.serving


def _draw(staged: Path, probabilities: Probabilities, dataset: Dataset, metrics: Metrics) -> None:
    try:
        draw_plots(staged, probabilities, dataset.test.y, metrics, dataset.classes)
    except Exception as error:  # a failed plot must not stop the training
        log.warning("the plots could not be drawn (%s); the bundle has none", one_line(error))
