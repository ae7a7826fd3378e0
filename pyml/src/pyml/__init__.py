"""Train a Keras model from an experiment file, track it, publish it as a bundle.

A package per step: `experiment` (the file), `datasets` (its samples), `training`, `evaluation`, `promotion`, `reports`
(what people see) and `tracking` (Weights & Biases). The files beside them: `cli`, `config` (settings of the process),
`process` (signals), `provenance` (commit, versions, machine), `json_schema` (of experiment files, for editors).

Nothing here knows Postgres or the predict service; what both services share is in `bundle`.
"""


class PymlError(Exception):
    """Training cannot start or go on; the message is one sentence that says what came and what was needed."""
