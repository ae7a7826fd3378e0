"""Train a Keras model from an experiment file, track it, publish it as a bundle.

Each step of the pipeline is a package: `experiment` (the experiment file), `datasets` (its samples), `training`,
`evaluation`, `promotion` (proposes the best model), `reports` (progress, tables, plots), `tracking` (Weights & Biases).
The other modules: `cli`, `config` (settings of the process), `process` (signals), `provenance` (commit, versions,
machine), `json_schema` (of experiment files, for editors).

This package does not use Postgres or the predict service. The code that both services share is in `bundle`.
"""


class PymlError(Exception):
    """Training cannot start or continue. The message is one sentence: what came, what was needed, what to do."""
