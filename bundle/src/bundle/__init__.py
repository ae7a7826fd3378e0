"""The hand-over between the trainer and the predict service (contract 1 in docs/architecture.md).

A bundle is a directory that appears whole on the shared volume:

    models/bundles/<bundle_id>/   model.h5  manifest.json  test_set.npz  predictions.csv
    models/current/<dataset>.json {"bundle_id": ..., "sha256": ...}   the trainer's proposal, one per dataset

Stations: `manifest` (what a bundle says of itself), `publish` (write it), `verify` (distrust it), `model` (load and
call it), `layers` (what a model may be made of). For both services, `files`, `arrays` and `preprocessing` say what the
data of people become. This package knows neither Weights & Biases nor Postgres.
"""


class BundleError(Exception):
    """A bundle, or a file of one, is missing, torn, tampered with or not what its manifest says."""
