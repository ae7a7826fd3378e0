"""The metrics of each epoch: recorded during the training, stored in the bundle as history.json (bundle.history).

val_auroc is measured after the training, so that the training is not slower.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bundle.document import explain, read_bounded
from bundle.history import HISTORY, MAX_HISTORY_BYTES, Epoch
from bundle.manifest import HISTORY_FILE
from pyml import PymlError
from pyml.evaluation.metrics import Labels, Probabilities, evaluate


def make_recorder() -> Any:
    """Make a Keras callback that records `epochs`, and the weights after the `first` and the `last` epoch."""
    import keras

    class Recorder(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.epochs: list[Epoch] = []

        def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            self.started = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            seconds = round(time.perf_counter() - self.started, 4)
            metrics = {name: float(value) for name, value in (logs or {}).items()}
            self.epochs.append({"epoch": epoch + 1, "seconds": seconds, **metrics})
            if not epoch:
                self.first = self.model.get_weights()

        def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
            self.last = self.model.get_weights()

    return Recorder()


def add_auroc(recorder: Any, predict: Callable[[], Probabilities], y: Labels) -> None:
    """Measure val_auroc of the first and the last epoch, then restore the weights of the model.

    predict gives the probabilities of the validation set.
    """
    kept = recorder.model.get_weights()
    for epoch, weights in ((recorder.epochs[0], recorder.first), (recorder.epochs[-1], recorder.last)):
        recorder.model.set_weights(weights)
        auroc = evaluate(predict(), y).auroc
        if auroc is not None:
            epoch["val_auroc"] = auroc
    recorder.model.set_weights(kept)


def write_history(directory: Path, epochs: list[Epoch]) -> None:
    """Write history.json, one line per epoch."""
    lines = ",\n ".join(json.dumps(epoch) for epoch in epochs)
    (directory / HISTORY_FILE).write_text(f"[{lines}]\n")


def read_history(directory: Path) -> list[Epoch]:
    """Read a bundle's history.json. Raises PymlError if it is absent or not valid."""
    path = directory / HISTORY_FILE
    try:
        return HISTORY.validate_json(read_bounded(path, MAX_HISTORY_BYTES))
    except OSError as error:
        raise PymlError(f"{path} cannot be read ({error.strerror}); train again") from error
    except ValidationError as error:
        raise PymlError(f"{path} is not a history: {explain(error)}") from error
