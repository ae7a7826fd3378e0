"""Train a Keras model from an experiment file, track it, publish it as a bundle.

Stations, in the order of the walk: `config` (settings of the process), `experiment` (the JSON file), `dataset` (arrays
and splits), `model` (Keras from the experiment), `train` (the story), `tracking` (Weights & Biases), `metrics`
(figures on the test set), `provenance` (what a bundle came from), `retest` (the published file against its manifest),
`progress` and `process` (terminal, TensorFlow's noise, seeds, signals), `cli`.

Nothing here knows Postgres or the predict service; what both share lies in `bundle`.
"""


class PymlError(Exception):
    """Training cannot start or go on; the message is one sentence that says what came and what was needed."""


def one_line(error: Exception) -> str:
    """Bring another library's error, often a page long, to at most 300 characters on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
