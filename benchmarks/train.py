"""How fast the trainer trains, beside Keras alone: `make bench-train`, with PYML_DATA_DIR where MNIST lies.

1. mnist_cnn, an epoch, beside Keras's own example of the same network (examples/vision/mnist_convnet.py, 2015 to 2020,
   Apache 2.0: float32 input, `fit` with a progress bar).
2. The training loop, recorded offline for W&B, beside a bare Keras `fit` of the same model: a large model, and a small
   one whose epoch takes a tenth of a second. The time before the first epoch and after the last epoch counts.

Two processes train an epoch in turns; the other one waits, so that a busy moment of the machine slows both. The result
is the median of the ratios of all epochs. The first epoch, in which TensorFlow builds its graph, is left out.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import timing

if TYPE_CHECKING:
    from pyml.config import Settings
    from pyml.datasets.dataset import Dataset
    from pyml.experiment.experiment import Experiment

REPO = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run the comparisons, or, with --way, one side of a comparison in this process."""
    parser = argparse.ArgumentParser(description="How fast the trainer trains, beside Keras alone.")
    parser.add_argument("--epochs", type=int, default=8, help="of mnist_cnn, each way")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--experiment", help=argparse.SUPPRESS)
    parser.add_argument("--turns", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        turns = socket.socket(fileno=options.turns).makefile("rw")
        result = WAYS[options.way](options.experiment, options.epochs, Clock(turns))
        turns.write(json.dumps(result) + "\n")
        turns.close()
        return
    print(timing.machine())
    compare_with_the_example(options.epochs)
    compare_with_a_bare_fit("mnist_cnn", options.epochs)
    compare_with_a_bare_fit("digits_cnn", 60)


def compare_with_the_example(epochs: int) -> None:
    """Print an epoch of Keras's example script and of ours, and both accuracies."""
    found = train_in_turns(("example", "ours"), "mnist_cnn", epochs)
    for way, result in found.items():
        accuracy = f"test accuracy after {epochs} epochs {result['accuracy']:.4f}"
        print(f"mnist_cnn, {way:8} {statistics.median(result['epochs'][1:]):6.2f} s an epoch, {accuracy}")
    seconds = {way: result["epochs"][1:] for way, result in found.items()}
    gain = timing.ratio(seconds, "ours", "example")
    print(f"mnist_cnn: {gain:.2f} times as fast as Keras's example (target: 1.15 at least)")


def compare_with_a_bare_fit(experiment: str, epochs: int) -> None:
    """Print the cost of our training loop beside a bare fit of the same model with the same data."""
    found = train_in_turns(("bare", "ours"), experiment, epochs)
    seconds = {way: result["epochs"][1:] for way, result in found.items()}
    around = {way: result["fit"] - sum(result["epochs"]) for way, result in found.items()}
    for way, taken in seconds.items():
        print(f"{experiment}, {way:8} {statistics.median(taken):6.3f} s an epoch, {around[way]:.3f} s before and after")
    loop = 1 / timing.ratio(seconds, "ours", "bare")
    whole = (around["ours"] + loop * sum(seconds["bare"])) / (around["bare"] + sum(seconds["bare"]))
    print(f"{experiment}: our loop takes {whole:.2f} of a bare fit of {epochs} epochs (target: 1.03 at most)")


def train_in_turns(ways: tuple[str, str], experiment: str, epochs: int) -> dict[str, dict[str, Any]]:
    """Start both ways, let them train an epoch in turns, and return their results."""
    with tempfile.TemporaryFile("w+") as errors:
        sides = {way: start(way, experiment, epochs, errors) for way in ways}
        try:
            for turns, _ in sides.values():
                turns.readline()  # both are ready before the first epoch
            for epoch in range(epochs):
                for way in ways if epoch % 2 == 0 else ways[::-1]:
                    turns, _ = sides[way]
                    turns.write("go\n")
                    turns.flush()
                    turns.readline()  # done
                    if epoch + 1 < epochs:
                        turns.readline()  # ready for the next
            return {way: json.loads(turns.readline()) for way, (turns, _) in sides.items()}
        except (ValueError, OSError):
            errors.seek(0)
            sys.exit(errors.read()[-2000:])
        finally:
            for turns, process in sides.values():
                turns.close()
                process.wait()


def start(way: str, experiment: str, epochs: int, errors: IO[str]) -> tuple[IO[str], subprocess.Popen[bytes]]:
    """Start one way as a process; return the socket that tells it to start an epoch, and the process."""
    here, there = socket.socketpair()
    arguments = ["--way", way, "--experiment", experiment, "--epochs", str(epochs), "--turns", str(there.fileno())]
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments], pass_fds=[there.fileno()], stdout=subprocess.DEVNULL, stderr=errors
    )
    there.close()
    return here.makefile("rw"), process


class Clock:
    """Waits for its turn before every epoch, and stores the seconds of the epoch, validation included."""

    def __init__(self, turns: IO[str]) -> None:
        """turns: the socket to the process that gives the turns."""
        self.epochs: list[float] = []
        self.waited = 0.0
        self._turns = turns
        self._started = 0.0

    def callback(self) -> Any:
        """Return the Keras callback; it must be the last one."""
        import keras

        return keras.callbacks.LambdaCallback(on_epoch_begin=self._begin, on_epoch_end=self._end)

    def _begin(self, epoch: int, logs: object = None) -> None:
        began = time.perf_counter()
        self._say("ready")
        self._turns.readline()
        self._started = time.perf_counter()
        self.waited += self._started - began

    def _end(self, epoch: int, logs: object = None) -> None:
        self.epochs.append(time.perf_counter() - self._started)
        self._say("done")

    def _say(self, word: str) -> None:
        self._turns.write(word + "\n")
        self._turns.flush()


def example(_: str, epochs: int, clock: Clock) -> dict[str, Any]:
    """Train as Keras's example script does; only the path of the file and the clock are ours."""
    import keras
    import numpy as np
    from keras import layers

    from pyml.config import read_settings
    from pyml.datasets.download import DataDirectory

    settings = read_settings()
    with np.load(DataDirectory(settings.data_dir, settings.origin).find("mnist", "mnist.npz")) as file:
        x_train, y_train, x_test, y_test = (file[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    num_classes = 10
    input_shape = (28, 28, 1)
    x_train = x_train.astype("float32") / 255
    x_test = x_test.astype("float32") / 255
    x_train = np.expand_dims(x_train, -1)
    x_test = np.expand_dims(x_test, -1)
    y_train = keras.utils.to_categorical(y_train, num_classes)
    y_test = keras.utils.to_categorical(y_test, num_classes)
    model = keras.Sequential(
        [
            keras.Input(shape=input_shape),
            layers.Conv2D(32, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Conv2D(64, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(num_classes, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    model.fit(x_train, y_train, batch_size=128, epochs=epochs, validation_split=0.1, callbacks=[clock.callback()])
    return {"epochs": clock.epochs, "accuracy": model.evaluate(x_test, y_test, verbose=0)[1]}


def ours(name: str, epochs: int, clock: Clock) -> dict[str, Any]:
    """Train as `pyml train` does: recorded offline, deterministic; the best epoch is kept."""
    from pyml.tracking.tracker import tracking
    from pyml.training.build_model import build_model
    from pyml.training.fit import fit_model
    from pyml.training.model_file import predict_split

    experiment, dataset, settings = prepare(name, epochs)
    model = build_model(experiment, dataset)
    with tracking(name, experiment.model_dump(mode="json"), None, settings) as tracker:
        callbacks = [*tracker.callbacks(), clock.callback()]
        began = time.perf_counter()
        fit_model(model, experiment, dataset, callbacks)
        seconds = time.perf_counter() - began
    predicted = predict_split(model, dataset.test, len(dataset.classes)).argmax(axis=1)
    accuracy = float((predicted == dataset.test.y).mean())
    return {"epochs": clock.epochs, "fit": seconds - clock.waited, "accuracy": accuracy}


def bare(name: str, epochs: int, clock: Clock) -> dict[str, Any]:
    """Call Keras's fit on the same arrays and model, and nothing else."""
    from pyml.training.build_model import build_model, encode_labels

    experiment, dataset, _ = prepare(name, epochs)
    model = build_model(experiment, dataset)
    model.compile(model.optimizer, experiment.loss, metrics=["accuracy"])  # without our steps_per_execution
    encoded = [
        encode_labels(part.y, experiment.loss, len(dataset.classes)) for part in (dataset.train, dataset.validation)
    ]
    began = time.perf_counter()
    model.fit(
        dataset.train.x,
        encoded[0],
        validation_data=(dataset.validation.x, encoded[1]),
        batch_size=experiment.batch_size,
        epochs=epochs,
        callbacks=[clock.callback()],
        verbose=0,
    )
    return {"epochs": clock.epochs, "fit": time.perf_counter() - began - clock.waited}


WAYS = {"example": example, "ours": ours, "bare": bare}


def prepare(name: str, epochs: int) -> "tuple[Experiment, Dataset, Settings]":
    """Read the experiment, its data and settings that record offline; train `epochs` epochs without an early stop."""
    from pyml.config import read_settings
    from pyml.datasets.load import load_dataset
    from pyml.experiment.experiment import read_experiments
    from pyml.keras_library import start_keras
    from pyml.training.seed import seed_everything

    (experiment,) = read_experiments(REPO / "experiments" / f"{name}.json")
    experiment = experiment.model_copy(update={"epochs": epochs, "early_stopping": None})
    aside = Path(tempfile.mkdtemp(prefix="bench-"))
    settings = read_settings().model_copy(update={"models": aside, "record": aside, "wandb_mode": "offline"})
    start_keras()
    seed_everything(experiment.seed, experiment.deterministic)
    return experiment, load_dataset(experiment.data, settings), settings


if __name__ == "__main__":
    main()
