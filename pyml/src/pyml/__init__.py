"""Train a Keras model from an experiment file, track it, publish it as a bundle.

Stations, in the order of the walk: `config` (settings of the process), `experiment` (the JSON file, with `data`,
`grid`, `schema`), `source` (`named` data sets from their `origin`, others `bypath`), `split`, `dataset` (`samples`,
and what they mean), `model` (Keras from the experiment), `feed` (batches), `train` (the story), `metrics` with
`plots`, `history` and `verdict` (how good it is), `scorecard` (said on the terminal), `retest` (the published file
against its manifest). Weights & Biases: `tracking` writes the `record`, `exhibits` among it; `upload` runs the
`uploader`, which reads it back (`readback`); `sync` does so later. Beside: `compare`, `provenance`, `progress`,
`process`, `cli`.

Nothing here knows Postgres or the predict service; what both share lies in `bundle`.
"""


class PymlError(Exception):
    """Training cannot start or go on; the message is one sentence that says what came and what was needed."""


def one_line(error: Exception) -> str:
    """Bring another library's error, often a page long, to at most 300 characters on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
